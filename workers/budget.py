"""Calls per second to each API of each app, shared by all workers, by Redis' clock; and the pauses DingTalk asks for.

A caller is given the time of its call in one round trip and sleeps until then; then it asks once more whether the time
still holds, as a pause may have begun meanwhile.
"""

import threading
import time
from typing import NamedTuple

from redis import Redis

from workers.errors import QuotaSpent, Throttled, from_code

#: µs in which no more than `per_second` calls are granted. A little over a second, as callers wake a little late.
WINDOW_US = 1_020_000
#: A second's calls come in so many bursts. DingTalk counts calls as they arrive: where the network delays some by up to
#: a third of a second, it still sees no more than 4/3 of `per_second` in one: 20 for 15.
BURSTS = 3
#: Of any second's calls these are kept from bulk callers.
LIVE_ONLY = 2
#: Seconds between two looks while waiting.
LOOK_SECONDS = 1.0
#: Seconds that a caller sits out a pause; for a longer one it gets Throttled, so that no worker blocks for minutes.
PATIENCE_SECONDS = 5.0
#: Seconds without a call after which all is forgotten; longer than any pause.
FORGET_SECONDS = 3600
#: A throttle answer within so many seconds after a pause doubles the next one, up to LONGEST_SECONDS, or to what
#: DingTalk itself asks for where that is longer.
QUIET_SECONDS = 30
LONGEST_SECONDS = 60

#: Seconds in which a process that has no limit need not look again whether there is a pause.
NO_LIMIT_SECONDS = 0.05

#: µs by which a caller may come late to its time, as DingTalk's limit has room for that; then it gets another time.
#: An answer of Redis that took longer may tell of a time long past, and is asked for once more.
#: It also finds out so that Redis' clock stepped forward, past times that sleepers hold.
LATE_US = 300_000

# KEYS of all scripts, A being the app and C the call:
#   1 bridge:budget            hash: now and shift (the clock, below), pause (until when nobody calls anything)
#   2 bridge:budget:pauses     hash, by "A C": until when nobody makes this call, how often that was doubled, the code
#   3 bridge:budget:slots:A:C  list: the times of the latest calls granted, newest first; some lie ahead
#   4 bridge:budget:bulk:A:C   list: of these, the times given to bulk callers
# Times are µs. Redis' clock may step back; `now` does not: it stands still for one call and runs on from there (shift).
_CLOCK = """
local time = redis.call('TIME')
local clock = redis.call('HMGET', KEYS[1], 'now', 'shift', 'pause')
local shift, pause = tonumber(clock[2] or 0), tonumber(clock[3] or 0)
local now = time[1] * 1000000 + time[2] + shift
if clock[1] and now < tonumber(clock[1]) then
  shift = shift + clock[1] - now
  now = tonumber(clock[1])
end
local function whole(number) return string.format('%.0f', number) end
redis.call('HSET', KEYS[1], 'now', whole(now), 'shift', whole(shift))
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""
_TILL = """
local function pause_of(field)
  local till, doubled, code = string.match(redis.call('HGET', KEYS[2], field) or '', '^(%d+) (%d+) (.*)')
  return tonumber(till or 0), tonumber(doubled or 0), code
end
"""
# ARGV: forget s, limit, burst, window µs, bulk limit (0: live), patience µs, longest wait µs, late µs,
#   "A C", the same of the payer, held: the time given before, or 0
# Returns {wait µs, time}; time 0: nothing given, look again after the wait; wait below 0: it would take too long, and
# where a pause is why, its code comes third.
_ACQUIRE = """
local limit, burst, window, bulk = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local held, code = tonumber(ARGV[11]), ''
for _, field in ipairs({ARGV[9], ARGV[10]}) do
  local till, _, why = pause_of(field)
  if till > pause then pause, code = till, why end
end
if held > 0 and held >= pause and held > now - ARGV[8] then return {0, held} end
if pause - now > tonumber(ARGV[6]) then return {now - pause, 0, code} end
local slot = math.max(now, pause)
local function not_before(key, count, span)
  local earlier = redis.call('LINDEX', key, count - 1)
  if earlier then slot = math.max(slot, earlier + span) end
end
if limit > 0 then
  not_before(KEYS[3], burst, math.ceil(window * burst / limit))
  not_before(KEYS[3], limit, window)
  if bulk > 0 then not_before(KEYS[4], bulk, window) end
end
local wait = slot - now
if wait > tonumber(ARGV[7]) then return {-wait, 0} end
if bulk > 0 and wait > 0 then return {wait, 0} end
if limit > 0 then
  for number, key in ipairs({KEYS[3], KEYS[4]}) do
    if number == 1 or bulk > 0 then
      redis.call('LPUSH', key, whole(slot))
      redis.call('LTRIM', key, 0, limit - 1)
      redis.call('EXPIRE', key, ARGV[1])
    end
  end
end
return {wait, slot}
"""
# ARGV: forget s, µs, "A C", code, quiet µs, longest µs
# Returns whether a pause began: who called before it, and is refused too, only keeps it as long as asked for.
_PAUSE = """
local wait, till, doubled = tonumber(ARGV[2]), pause_of(ARGV[3])
local begins = now >= till
if begins then
  doubled = now < till + ARGV[5] and doubled + 1 or 0
  wait = math.min(wait * 2 ^ doubled, math.max(wait, tonumber(ARGV[6])))
end
till = math.max(now + wait, till)
redis.call('HSET', KEYS[2], ARGV[3], whole(till) .. ' ' .. whole(doubled) .. ' ' .. ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[1])
return begins and 1 or 0
"""
_PAUSE_ALL = "redis.call('HSET', KEYS[1], 'pause', whole(math.max(now + ARGV[2], pause)))"
_NO_LIMIT_US = 2**53
_CLOCK_KEY, _PAUSES_KEY = "bridge:budget", "bridge:budget:pauses"


class Pause(NamedTuple):
    """A call that nobody makes now, for how many seconds more, and DingTalk's code for it."""

    app: str
    call: str
    seconds: float
    code: str

    @property
    def quota_spent(self) -> bool:
        """Whether it lasts until somebody buys quota, or the month ends."""
        return isinstance(from_code(self.code, "", self.call), QuotaSpent)


class Paused(NamedTuple):
    """What is paused at present: for how many seconds all calls, and which single ones."""

    all_seconds: float
    calls: list[Pause]


def paused(redis: Redis) -> Paused:
    """The pauses that last, for people. Raises RedisError."""
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.hmget(_CLOCK_KEY, "shift", "pause")
        pipeline.hgetall(_PAUSES_KEY)
        (seconds, micros), (shift, all_till), pauses = pipeline.execute()
    now = seconds * 1_000_000 + micros + int(shift or 0)
    calls = []
    for field, value in sorted(pauses.items()):
        app, call = field.decode().split(" ", 1)
        till, _, code = value.decode().split(" ", 2)
        if int(till) > now:
            calls.append(Pause(app, call, (int(till) - now) / 1e6, code))
    return Paused(max(0.0, (int(all_till or 0) - now) / 1e6), calls)


class Budget:
    """At most `per_second` calls of one API by one app in any second; 0 is no limit. Thread-safe; raises RedisError."""

    def __init__(self, redis: Redis, per_second: int) -> None:
        self._acquire = redis.register_script(_CLOCK + _TILL + _ACQUIRE)
        self._pause = redis.register_script(_CLOCK + _TILL + _PAUSE)
        self._pause_all = redis.register_script(_CLOCK + _PAUSE_ALL)
        self._bulk_limit = max(1, per_second - LIVE_ONLY)
        self._limits = [FORGET_SECONDS, per_second, max(1, per_second // BURSTS), WINDOW_US]
        self._limited = per_second > 0
        self._free_until: dict[tuple[str, str], float] = {}
        self._bulk_turns: dict[tuple[str, str], threading.Lock] = {}

    def acquire(
        self, app: str, call: str, *, live: bool = True, deadline: float | None = None, payer: str | None = None
    ) -> None:
        """Returns when the call may be made.

        live: False for a bulk copy: it takes what no live caller waits for, and leaves LIVE_ONLY calls a second.
        deadline: on time.monotonic()'s clock; a call that could be made only after it raises Throttled at once.
        So does a pause that lasts longer than PATIENCE_SECONDS; QuotaSpent, where that is why.
        payer: an organisation whose quota is its own, as `pause` knows it; its pauses hold, too.
        """
        payer = payer or app
        if not self._limited:
            if time.monotonic() > self._free_until.get((payer, call), 0.0):
                self._wait(app, payer, call, 0, deadline)
                self._free_until[payer, call] = time.monotonic() + NO_LIMIT_SECONDS
            return
        if live:
            self._wait(app, payer, call, 0, deadline)
            return
        # One bulk thread of a process looks, the others queue here instead of in Redis.
        turn = self._bulk_turns.setdefault((app, call), threading.Lock())
        if not turn.acquire(timeout=-1 if deadline is None else max(0.0, deadline - time.monotonic())):
            raise _too_late(call, LOOK_SECONDS)
        try:
            self._wait(app, payer, call, self._bulk_limit, deadline)
        finally:
            turn.release()

    def pause(self, app: str, call: str, seconds: float, code: str) -> bool:
        """Nobody makes this call of this app, or payer, for so long, and longer each time that this comes again soon.

        Whether a pause began: not where one was under way.
        """
        self._free_until.clear()
        lengths = [int(length * 1e6) for length in (QUIET_SECONDS, LONGEST_SECONDS)]
        args: list[str | int] = [FORGET_SECONDS, int(seconds * 1e6), f"{app} {call}", code or "?", *lengths]
        return bool(self._pause(keys=_keys(app, call), args=args))

    def pause_all(self, seconds: float) -> None:
        """Nobody makes any call for so long: DingTalk blocks this address."""
        self._free_until.clear()
        self._pause_all(keys=_keys("", ""), args=[FORGET_SECONDS, int(seconds * 1e6)])

    def _wait(self, app: str, payer: str, call: str, bulk_limit: int, deadline: float | None) -> None:
        """Sleeps by this host's clock alone, so a step of Redis' clock lengthens no sleep."""
        keys = _keys(app, call)
        held, due, late = 0, 0.0, False
        while True:
            longest = _NO_LIMIT_US if deadline is None else max(0, int((deadline - time.monotonic()) * 1e6))
            args: list[str | int] = [*self._limits, bulk_limit, int(PATIENCE_SECONDS * 1e6), longest, LATE_US]
            args += [f"{app} {call}", f"{payer} {call}", held]
            asked = time.monotonic()
            wait_us, slot, *code = self._acquire(keys=keys, args=args)
            was_late, late = late, self._limited and (time.monotonic() - asked) * 1e6 > LATE_US
            if wait_us < 0:
                raise _too_late(call, -wait_us / 1e6, *code)
            if slot == 0 or slot != held:
                held, due = slot, time.monotonic() + wait_us / 1e6
            left = due - time.monotonic()
            if held and left <= 0 and (was_late or not late):
                return
            time.sleep(max(0.0, min(left, LOOK_SECONDS)))


def _keys(app: str, call: str) -> list[str]:
    return [_CLOCK_KEY, _PAUSES_KEY, *(f"bridge:budget:{part}:{app}:{call}" for part in ("slots", "bulk"))]


def _too_late(call: str, wait: float, code: bytes | str = "") -> Throttled:
    code = code if isinstance(code, str) else code.decode()
    if isinstance(from_code(code, "", call), QuotaSpent):
        return QuotaSpent(code, "", call, wait)
    return Throttled("calls_per_second", "no call may be made before the wait is over", call, wait)
