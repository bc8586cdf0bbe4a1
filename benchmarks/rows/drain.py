"""How fast a spool comes back into Redis, beside how fast the receiver takes callbacks."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import flood
from benchmarks.place import place
from benchmarks.row import Goal, Measure, Row, ratio
from bridge import queues
from bridge.accept import Acceptor
from bridge.intake import drain
from bridge.queues import Patience
from bridge.spool import Spool

#: Events in the spool; and written with one sync.
EVENTS, TOGETHER = 100_000, 1_000
#: Callbacks that the receiver takes meanwhile, and connections.
CALLBACKS, CONNECTIONS = 4_000, 16


@contextmanager
def prepared() -> Iterator[Measure]:
    with place() as here, here.receiving() as (port, _):
        filled = here.folder / "filled"
        spool = Spool(filled)
        for _ in range(EVENTS // TOGETHER):
            spool.add(here.events(TOGETHER, 500))
        spool.close()

        def measure(_number: int) -> dict[str, float]:
            here.redis.flushall()
            answered = flood(port, here.callbacks(CALLBACKS), CONNECTIONS)
            assert set(answered.statuses) == {200}, answered.statuses
            connection = queues.connect(here.config, Patience.WORKER)
            return {
                "drained, events/s": _drain(filled, here.folder / "copy", Acceptor(connection)),
                "receiver, 16 connections, req/s": answered.rate,
            }

        yield measure


def _drain(filled: Path, folder: Path, acceptor: Acceptor) -> float:
    shutil.copytree(filled, folder)
    begun = time.perf_counter()
    count = drain(Spool(folder), acceptor)
    seconds = time.perf_counter() - begun
    shutil.rmtree(folder)
    assert count == EVENTS, count
    return count / seconds


ROW = Row(
    "drain",
    f"a spool of {EVENTS} events, against {CALLBACKS} callbacks over {CONNECTIONS} connections",
    prepared,
    [Goal("against the receiver", ratio("drained, events/s", "receiver, 16 connections, req/s"), 5, 10)],
)
