"""Redis connections, and an event as an ordinary RQ job on the queue of its type."""

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.connection import parse_url
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from redis.sentinel import Sentinel

from bridge import config as configuration
from bridge import embedded, events
from bridge.config import Config
from bridge.events import Event

#: The function that an event's job names; `dingbridge work` knows it and calls no other.
EVENT_FUNCTION = "workers.batch.apply"
#: Seconds a job may run: RQ's tools call it overdue then, and a user's function is interrupted.
JOB_TIMEOUT = 600
#: Seconds that a finished job stays to be seen in rq-dashboard.
RESULT_TTL = 600
#: Seconds that a failed job stays to be seen and requeued: thirty days.
FAILURE_TTL = 30 * 86400
#: Fields that all waiting jobs have.
WAITING: Mapping[str, str | int] = {
    "status": "queued",
    "timeout": JOB_TIMEOUT,
    "result_ttl": RESULT_TTL,
    "failure_ttl": FAILURE_TTL,
}
#: Where a sentinel listens when its address names no port.
SENTINEL_PORT = 26379
#: Seconds at most for a sentinel's answer; it only says where the master is, the next one knows as well.
SENTINEL_SECONDS = 1.0
#: Lua by which a job that waits on a queue stands in its corp's lane, too, so that no corp holds up another: claims
#: take one of each corp in turn. The queue itself stays the list of all that wait.
#:   bridge:lane:<queue>:<corp>  list: ids of the corp's waiting jobs, in the queue's order; ids that wait no more may
#:                               stand there, and one that somebody requeued by hand stands in none
#:   bridge:lanes:<queue>        list: the corps that have a lane, each once, the next first
#:   rq:job:<id>                 hash: the job, with the corp whose lane it is
ENTER_LANE = """
local function lane_of(queue, corp) return 'bridge:lane:' .. queue .. ':' .. corp end
local function enter_lane(push, queue, corp, ...)
  local first = redis.call(push, lane_of(queue, corp), ...) == select('#', ...)
  if first then redis.call(push, 'bridge:lanes:' .. queue, corp) end
end
"""
#: Set of every queue's key, kept by RQ.
QUEUES_KEY = "rq:queues"


class Patience(Enum):
    """How long a process may wait for Redis: (connect seconds, read seconds, retries)."""

    #: A callback has to be answered well within a second; the sender retries, we do not.
    RECEIVER = (0.05, 0.1, 0)
    #: Above the time that a worker blocks for the next event.
    WORKER = (2.0, 30.0, 3)
    #: Somebody looks at a page, which says that Redis is away.
    CONSOLE = (1.0, 2.0, 0)


def connect(config: Config, patience: Patience) -> redis.Redis:
    """A client for the configured Redis; starts the embedded one. Raises RedisUnusable.

    The patience wins over what the URL says.
    """
    connect_seconds, read_seconds, retries = patience.value
    backoff = ExponentialBackoff(cap=1.0, base=0.05) if retries else NoBackoff()
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_seconds,
        "socket_timeout": read_seconds,
        "retry": Retry(backoff, retries),
        # A master that has become a replica keeps its connections, while its name leads to another: they are dropped.
        "retry_on_error": [redis.ReadOnlyError],
        # With them a server in maintenance may take ten seconds for each answer.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
    }
    url = config.redis.url
    if url == "embedded":
        # A receiver need not wait until it has read its file: the spool takes what comes.
        start = embedded.begin if patience is Patience.RECEIVER else embedded.ensure
        return redis.Redis(unix_socket_path=str(start(config.var)), **options)
    if url.startswith("redis+sentinel://"):
        return _sentinel(url, options)
    return redis.Redis.from_pool(redis.ConnectionPool(**(_parsed(url) | options)))


def _sentinel(url: str, options: Mapping[str, Any]) -> redis.Redis:
    """`redis+sentinel://[user:password@]host:port,host:port/service/db[?option=value]`"""
    service = urlsplit(url).path.strip("/").partition("/")[0]
    given = [_parsed(each) for each in configuration.redis_urls(url)]
    addresses = [(one.pop("host", "localhost"), one.pop("port", SENTINEL_PORT)) for one in given]
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        addresses,
        # Without these a sentinel that is away holds the caller up for seconds.
        sentinel_kwargs={**options, "socket_timeout": min(options["socket_timeout"], SENTINEL_SECONDS)},
    )
    client: redis.Redis = sentinel.master_for(  # type: ignore[no-untyped-call]
        service or "mymaster", **{**given[0], **options}
    )
    return client


def _parsed(url: str) -> dict[str, Any]:
    """A Redis URL's parts and options, each of its own type."""
    return dict(parse_url(url))  # type: ignore[no-untyped-call]


def show_queues(connection: redis.Redis) -> None:
    """Make every event queue visible to RQ's tools, also while it is empty."""
    connection.sadd(QUEUES_KEY, *(f"rq:queue:{name}" for name in events.queue_names()))


def encode(event: Event) -> bytes:
    """The job's `data`, as RQ's JSON serializer writes a call: function, instance, args, kwargs."""
    return b'["%s",null,[%s],{}]' % (EVENT_FUNCTION.encode(), msgspec.json.encode(event))


_Call = tuple[str, Any, tuple[Event], dict[str, Any]]
_decoder: msgspec.json.Decoder[_Call] = msgspec.json.Decoder(_Call)


def decode(data: bytes) -> Event:
    """The event of a job's `data`. Raises ValueError when it is not a call of EVENT_FUNCTION."""
    try:
        # RQ compresses what it saves again, as on a requeue.
        plain = data if data.startswith(b"[") else zlib.decompress(data)
        function, instance, (event,), kwargs = _decoder.decode(plain)
    except (msgspec.DecodeError, zlib.error, RecursionError) as error:
        raise ValueError(f"not an event's job: {error}") from None
    if function != EVENT_FUNCTION or instance is not None or kwargs:
        raise ValueError(f"the job names {function[:80]}, not {EVENT_FUNCTION}")
    if event.v != events.VERSION:
        raise ValueError(f"the job is of version {event.v}; this worker knows version {events.VERSION}")
    return event


def waiting_job(data: bytes, description: str, queue: str) -> dict[str, str | bytes | int]:
    """The hash of a job that waits, as RQ saves one."""
    at = iso_now()
    return {"created_at": at, "enqueued_at": at, "data": data, "description": description, "origin": queue, **WAITING}


def iso_now() -> str:
    """The present as RQ writes it, for people; no decision rests on it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
