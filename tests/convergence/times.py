"""Time turned by hand: DingTalk's, and Redis' clock and life, which the product's own Lua scripts ask for."""

import math
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from bridge import accept
from simulator import tenant
from tests.convergence.actors import Inline, acting, pause
from workers import claimer, claims, copy, moment
from workers.moment import SECOND

#: What the scripts read in place of TIME and INFO.
_TIME_KEY, _INFO_KEY = "test:time", "test:info"
#: When all begins: seconds since 1970.
BEGINNING = 1_700_000_000
#: Seconds that a sleep lasts at least: whoever looks again and again for minutes would take long.
LEAST_SLEEP = 2.0


class Times:
    """The present by DingTalk's clock, in microseconds, and what Redis takes it for."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        #: When every example begins.
        self.beginning = BEGINNING * SECOND
        self.begin()

    def begin(self) -> None:
        self.present = self.beginning
        self.ahead = 0
        self._lives = 1
        self.show()

    def show(self) -> None:
        """Tell Redis, also after it was emptied."""
        now = self.present + self.ahead
        with self._connection.pipeline() as pipeline:
            pipeline.delete(_TIME_KEY)
            pipeline.rpush(_TIME_KEY, now // SECOND, now % SECOND)
            pipeline.set(_INFO_KEY, f"run_id:{self._lives:040x}")
            pipeline.execute()

    def pass_by(self, micros: int) -> None:
        self.present += micros
        self.show()

    def step(self, micros: int) -> None:
        """Redis' clock alone moves, either way."""
        self.ahead += micros
        self.show()

    def restart(self) -> None:
        """Redis begins another life."""
        self._lives += 1
        self.show()


@contextmanager
def turned_by_hand(times: Times) -> Iterator[Times]:
    """Whoever asks for the time or waits for it while this lasts is answered by `times`."""
    sleep = time.sleep

    def asleep(seconds: float) -> None:
        if acting():
            pause("asleep")
            times.pass_by(round(max(seconds, LEAST_SLEEP) * SECOND))
        else:
            sleep(seconds)

    with pytest.MonkeyPatch.context() as patch:
        for module in (accept, moment, claims):
            for name, text in list(vars(module).items()):
                if isinstance(text, str) and "redis.call(" in text:
                    text = text.replace("redis.call('TIME')", f"redis.call('LRANGE', '{_TIME_KEY}', 0, -1)")
                    patch.setattr(
                        module, name, text.replace("redis.call('INFO', 'server')", f"redis.call('GET', '{_INFO_KEY}')")
                    )
        patch.setattr(tenant, "time", types.SimpleNamespace(monotonic=lambda: times.present / SECOND))
        patch.setattr(time, "sleep", asleep)
        patch.setattr(copy, "ThreadPoolExecutor", Inline)
        # Claims are taken back when the test says so.
        patch.setattr(claimer, "SWEEP_SECONDS", math.inf)
        yield times
