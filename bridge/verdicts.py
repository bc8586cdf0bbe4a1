"""What became of each app's latest callbacks, noted in Redis: `doctor` tells by it which key is wrong."""

from collections.abc import Mapping
from typing import Literal, NamedTuple, cast

import redis

from bridge.errors import OwnerMismatch, Refused, SignatureMismatch, Undecipherable

#: It brought an event, or what is wrong with the keys that it came under. A mere check says neither: anybody here can
#: send one.
Verdict = Literal["good", "token", "aes_key", "owner_key"]
#: What a refusal says of the keys; any other says nothing of them.
VERDICTS: Mapping[type[Refused], Verdict] = {
    SignatureMismatch: "token",
    Undecipherable: "aes_key",
    OwnerMismatch: "owner_key",
}
#: Hash: `app verdict` → Redis' microseconds and the reason, `at reason`.
VERDICTS_KEY = "bridge:callbacks"
#: Seconds without a callback after which all is forgotten: thirty days.
FORGET_SECONDS = 30 * 86400

_NOTE = """
local time = redis.call('TIME')
local at = string.format('%.0f', time[1] * 1000000 + time[2])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], at .. ' ' .. ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""


class Noted(NamedTuple):
    """The latest callback of one verdict: Redis' microseconds, and the reason that its sender was told."""

    at: int
    reason: str


class Verdicts:
    """Notes verdicts and tells them; raises RedisError."""

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._note = connection.register_script(_NOTE)

    def note(self, found: Mapping[tuple[str, Verdict], str]) -> None:
        """These are the latest, each with its reason."""
        pairs = [part for (app, verdict), reason in found.items() for part in (f"{app} {verdict}", reason)]
        self._note(keys=[VERDICTS_KEY], args=[FORGET_SECONDS, *pairs])

    def read(self, app: str) -> dict[Verdict, Noted]:
        """The latest of each verdict on an app's callbacks."""
        found = cast(dict[bytes, bytes], self._connection.hgetall(VERDICTS_KEY))
        told: dict[Verdict, Noted] = {}
        for field, value in found.items():
            name, _, verdict = field.decode().rpartition(" ")
            at, _, reason = value.decode().partition(" ")
            if name == app:
                told[cast(Verdict, verdict)] = Noted(int(at), reason)
        return told
