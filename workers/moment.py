"""Redis' time and life: the one clock that decides anything."""

from typing import NamedTuple

import redis

#: Microseconds in a second.
SECOND = 1_000_000

_NOW = """
local time = redis.call('TIME')
return {string.format('%.0f', time[1] * 1000000 + time[2]),
        string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')}
"""


class Moment(NamedTuple):
    """Microseconds since 1970 by Redis' clock, and the run_id of that Redis: times of two lives do not compare."""

    micros: int
    life: str


class RedisClock:
    """Asks Redis for the present moment; raises RedisError."""

    def __init__(self, connection: redis.Redis) -> None:
        self._script = connection.register_script(_NOW)

    def now(self) -> Moment:
        micros, life = self._script()
        return Moment(int(micros), life.decode())
