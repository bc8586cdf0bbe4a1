"""Callbacks that DingTalk may count as failed, noted in Redis for each app: the clock reads the failed list after them.

A start of ours is noted too: what was sent while nobody listened has failed.
"""

from collections.abc import Collection
from typing import NamedTuple, cast

import redis

#: Hash: app → Redis' microseconds of a spell's first and last miss, `first last`.
MISSES_KEY = "bridge:recover:due"
#: Microseconds without a miss that end a spell.
QUIET = 300_000_000
#: Seconds after which all is forgotten: by then the failed list has been read in any case.
FORGET_SECONDS = 7200

_NOTE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
for _, app in ipairs(ARGV) do
  local first, last = string.match(redis.call('HGET', KEYS[1], app) or '', '(%d+) (%d+)')
  if not last or now - last > {QUIET} then first = string.format('%.0f', now) end
  redis.call('HSET', KEYS[1], app, first .. string.format(' %.0f', now))
end
redis.call('EXPIRE', KEYS[1], {FORGET_SECONDS})
""".replace("{QUIET}", str(QUIET)).replace("{FORGET_SECONDS}", str(FORGET_SECONDS))


class Miss(NamedTuple):
    """A spell of misses: Redis' microseconds of the first and the last."""

    first: int
    last: int


class Misses:
    """Notes misses and tells them; raises RedisError."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._note = connection.register_script(_NOTE)

    def note(self, apps: Collection[str]) -> None:
        """These apps have missed a callback, or may have."""
        self._note(keys=[MISSES_KEY], args=sorted(apps))

    def read(self) -> dict[str, Miss]:
        """The latest spell of each app."""
        found = cast(dict[bytes, bytes], self._connection.hgetall(MISSES_KEY))
        return {app.decode(): Miss(*map(int, spell.split())) for app, spell in found.items()}
