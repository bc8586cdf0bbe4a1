"""Access tokens in Redis, shared by all workers: one refreshes, the others use the old token or wait for the new.

Redis keys, K being an app and its app_key or suite_key, with a token for each corp also the corp:
  bridge:token:K    hash: token, margin (ms before its end at which a new one is due); expires with the token
  bridge:refresh:K  a random word of whoever refreshes now
"""

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from redis import Redis

from workers.errors import ApiError, Transient

#: Seconds before a token's end at which a new one is fetched; DingTalk's own Stream SDK uses the same.
MARGIN = 300
#: Seconds until a refresher counts as dead: longer than a call to DingTalk may take, with its wait for the budget.
REFRESH_SECONDS = 20
#: Seconds to wait for the token that another worker fetches, and to outlive a dead one.
WAIT_SECONDS = 25.0
#: Seconds between two looks for the token that another worker fetches.
LOOK_SECONDS = 0.05
#: Seconds that a failure to get a token answers whoever else asks in this process: a storm of gettoken is throttled.
FAILURE_SECONDS = 1.0

# Stores a token unless the refresher was taken for dead meanwhile; a late one must not replace a newer token.
# KEYS: token, refresh; ARGV: the refresher's word, token, margin ms, lifetime ms
_STORE = """
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'token', ARGV[2], 'margin', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
"""
# KEYS: the key; ARGV: the value that it must still have to be deleted
_DROP_REFRESH = "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"
_DROP_STALE = "return redis.call('HGET', KEYS[1], 'token') == ARGV[1] and redis.call('DEL', KEYS[1]) or 0"


@dataclass(frozen=True, slots=True)
class Grant:
    """A fresh token and its lifetime in seconds."""

    token: str = field(repr=False)
    seconds: float


#: Asks DingTalk for a token, each time anew; raises ApiError.
Source = Callable[[], Grant]


@dataclass(slots=True)
class _Local:
    """What this process knows of one token: while it is fresh nobody looks into Redis, then one thread at a time."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: str = field(default="", repr=False)
    fresh_until: float = 0.0
    failure: ApiError | None = None
    failed_until: float = 0.0


class Tokens:
    """The tokens of all apps; thread-safe."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self._store = redis.register_script(_STORE)
        self._drop_refresh = redis.register_script(_DROP_REFRESH)
        self._drop_token = redis.register_script(_DROP_STALE)
        self._locals: dict[str, _Local] = {}

    def get(self, key: str, source: Source) -> str:
        """A valid token; `source` is asked where Redis has none, or one that ends within MARGIN.

        Raises what `source` raises, and Transient when another worker's refresh takes longer than WAIT_SECONDS.
        """
        local = self._locals.setdefault(key, _Local())
        if time.monotonic() < local.fresh_until:
            return local.token
        if not local.lock.acquire(timeout=WAIT_SECONDS):
            raise _overdue()
        try:
            return self._under_lock(key, local, source)
        finally:
            local.lock.release()

    def discard(self, key: str, token: str) -> None:
        """Forgets a token that DingTalk refused, unless it was replaced already."""
        local = self._locals.setdefault(key, _Local())
        with local.lock:  # or a thread that saw it in Redis just before would bring it back here
            self._drop_token(keys=[_token_key(key)], args=[token])
            if local.token == token:
                local.fresh_until = 0.0

    def forget(self, key: str) -> None:
        """Drops a token, whichever it is."""
        local = self._locals.pop(key, _Local())
        with local.lock:
            self.redis.delete(_token_key(key))
            local.fresh_until = 0.0

    def _under_lock(self, key: str, local: _Local, source: Source) -> str:
        now = time.monotonic()
        if now < local.fresh_until:
            return local.token
        if local.failure is not None and now < local.failed_until:
            raise local.failure.with_traceback(None)
        try:
            local.token, fresh_seconds = self._shared(key, source)
        except ApiError as failure:
            local.failure, local.failed_until = failure, time.monotonic() + FAILURE_SECONDS
            raise
        local.fresh_until = time.monotonic() + fresh_seconds
        return local.token

    def _shared(self, key: str, source: Source) -> tuple[str, float]:
        """The token and for how many seconds this process need not look again."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            token, fresh_seconds = self._look(key)
            if fresh_seconds > 0:
                return token, fresh_seconds
            word = secrets.token_hex(8)
            if self.redis.set(_refresh_key(key), word, nx=True, ex=REFRESH_SECONDS):
                return self._refresh(key, source, word)
            if token:
                return token, FAILURE_SECONDS
            time.sleep(LOOK_SECONDS)
        raise _overdue()

    def _refresh(self, key: str, source: Source, word: str) -> tuple[str, float]:
        """Asks DingTalk, unless somebody did between the look and the lock; an old token serves until its end."""
        try:
            old, fresh_seconds = self._look(key)
            if fresh_seconds > 0:
                return old, fresh_seconds
            try:
                grant = source()
            except ApiError:
                if not old:
                    raise
                return old, FAILURE_SECONDS
            margin = min(MARGIN, grant.seconds / 2)
            lifetime_ms = max(1, int(grant.seconds * 1000))
            stored = self._store(
                keys=[_token_key(key), _refresh_key(key)], args=[word, grant.token, int(margin * 1000), lifetime_ms]
            )
            return grant.token, grant.seconds - margin if stored else FAILURE_SECONDS
        finally:
            self._drop_refresh(keys=[_refresh_key(key)], args=[word])

    def _look(self, key: str) -> tuple[str, float]:
        """Redis' token, "" for none, and the seconds until a new one is due, 0 or less when it is."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.hmget(_token_key(key), "token", "margin")
            pipe.pttl(_token_key(key))
            (token, margin), left_ms = pipe.execute()
        if token is None:
            return "", 0.0
        return _as_text(token), (left_ms - int(margin)) / 1000


def _token_key(key: str) -> str:
    return f"bridge:token:{key}"


def _refresh_key(key: str) -> str:
    return f"bridge:refresh:{key}"


def _as_text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()


def _overdue() -> Transient:
    return Transient("no-token", "another worker's refresh of the access token takes too long")
