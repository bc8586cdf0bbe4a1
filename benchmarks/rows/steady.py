"""How late replies are at 300 callbacks a second, and beside ten times as many forged ones."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.load import Answers, steady
from benchmarks.place import callback, place
from benchmarks.row import Goal, Measure, Row, figure, percentile
from bridge.config import Config
from bridge.crypto import Key
from tests.installation import AES_KEY

#: Callbacks a second; then genuine ones beside forged ones.
RATE, GENUINE, FORGED = 300, 150, 1_500
SECONDS = 8
CONNECTIONS = 64
#: Bytes of what the forged ones say.
FORGED_BYTES = 1024


@contextmanager
def prepared() -> Iterator[Measure]:
    with place() as here, here.receiving() as (port, _):
        forged = _forged(here.config)

        def measure(_number: int) -> dict[str, float]:
            calm = iter(here.callbacks(RATE * (SECONDS + 1)))
            (alone,) = steady(port, {RATE: calm}, SECONDS, CONNECTIONS)
            assert set(alone.statuses) == {200}, alone.statuses
            both = {GENUINE: iter(here.callbacks(GENUINE * (SECONDS + 1))), FORGED: forged}
            genuine, refused = steady(port, both, SECONDS, CONNECTIONS)
            return {
                "300 a second, p50 ms": 1000 * percentile(alone.latencies, 0.5),
                "300 a second, p99 ms": 1000 * percentile(alone.latencies, 0.99),
                "beside forged ones, p50 ms": 1000 * percentile(genuine.latencies, 0.5),
                "beside forged ones, p99 ms": 1000 * percentile(genuine.latencies, 0.99),
                "beside forged ones, answered": genuine.statuses.get(200, 0) / len(genuine.latencies),
                "forged ones sent, 1/s": _sent(refused),
            }

        yield measure


def _forged(config: Config) -> Iterator[bytes]:
    """Under a token that is not ours."""
    message = {"EventType": "user_modify_org", "filling": "x" * FORGED_BYTES}
    return itertools.repeat(callback(config, message, Key("another token", AES_KEY)))


def _sent(answered: Answers) -> float:
    assert set(answered.statuses) == {403}, answered.statuses
    return answered.rate


ROW = Row(
    "steady",
    f"{RATE} callbacks a second for {SECONDS} s; then {GENUINE} beside {FORGED} forged ones",
    prepared,
    [
        Goal("p99 at 300 callbacks/s, ms", figure("300 a second, p99 ms"), 100, 20, more=False),
        Goal("p99 beside forged ones, ms", figure("beside forged ones, p99 ms"), 300, 300, more=False),
        Goal("answered beside forged ones", figure("beside forged ones, answered"), 1, 1),
    ],
)
