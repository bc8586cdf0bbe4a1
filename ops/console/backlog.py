"""What lies in Redis: how much came in, what waits on each queue, and who works. Reads counts and times alone."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import redis
from rq.utils import utcparse

from bridge.accept import ACCEPTED_KEY, LAST_KEY
from bridge.queues import QUEUES_KEY
from workers.moment import SECOND

#: Seconds without a sign of life after which a worker without a lease is not counted; RQ's own beat every 5 to 15.
SILENT_SECONDS = 40.0
#: Set of the keys of all workers, kept by RQ.
_WORKERS_KEY = "rq:workers"
_WORKER_FIELDS = ("hostname", "state", "last_heartbeat", "queues", "successful_job_count", "failed_job_count")


class QueueState(NamedTuple):
    """One queue; ages in seconds, None where there is nothing of that age."""

    name: str
    accepted: int
    last: float | None
    waiting: int
    oldest: float | None
    claimed: int
    put_off: int
    failed: int

    @property
    def quiet(self) -> bool:
        """Whether nothing ever came in here, nor waits."""
        return not (self.accepted or self.waiting or self.claimed or self.put_off or self.failed)


class WorkerState(NamedTuple):
    """One worker; `heartbeat` in seconds since its last sign of life."""

    name: str
    host: str
    state: str
    heartbeat: float
    alive: bool
    queues: tuple[str, ...]
    done: int
    failed: int


class Backlog(NamedTuple):
    """Everything that `observe` saw."""

    queues: tuple[QueueState, ...]
    workers: tuple[WorkerState, ...]

    @property
    def total(self) -> QueueState:
        """All queues added up; of ages the latest `last` and the greatest `oldest`."""
        last = [queue.last for queue in self.queues if queue.last is not None]
        oldest = [queue.oldest for queue in self.queues if queue.oldest is not None]
        sums = {name: sum(getattr(queue, name) for queue in self.queues) for name in _COUNTS}
        return QueueState(name="all", last=min(last, default=None), oldest=max(oldest, default=None), **sums)

    @property
    def alive(self) -> int:
        """How many workers are alive."""
        return sum(worker.alive for worker in self.workers)


_COUNTS = ("accepted", "waiting", "claimed", "put_off", "failed")


def observe(connection: redis.Redis) -> Backlog:
    """The present state, in three round trips. Raises RedisError."""
    with connection.pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.smembers(QUEUES_KEY)
        pipeline.hgetall(ACCEPTED_KEY)
        pipeline.hgetall(LAST_KEY)
        pipeline.smembers(_WORKERS_KEY)
        (seconds, micros), queue_keys, accepted, last, worker_keys = pipeline.execute()
    now = seconds + micros / SECOND
    names = sorted(key.decode().removeprefix("rq:queue:") for key in queue_keys)
    with connection.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.llen(f"rq:queue:{name}")
            pipeline.lindex(f"rq:queue:{name}", 0)
            for kind in ("wip", "scheduled", "failed"):
                pipeline.zcard(f"rq:{kind}:{name}")
        counts = pipeline.execute()
    rows = [counts[start : start + 5] for start in range(0, len(counts), 5)]
    keys = sorted(key.decode() for key in worker_keys)
    with connection.pipeline(transaction=False) as pipeline:
        for _, head, *_ in rows:
            pipeline.hmget(f"rq:job:{(head or b'').decode()}", "stamp", "enqueued_at")
        for key in keys:
            pipeline.hmget(key, *_WORKER_FIELDS)
            pipeline.exists(f"bridge:lease:{key.removeprefix('rq:worker:')}")  # see workers/claims.py
        found = pipeline.execute()
    heads, beats = found[: len(rows)], found[len(rows) :]
    queues = [_queue(name, row, head, accepted, last, now) for name, row, head in zip(names, rows, heads, strict=True)]
    return Backlog(tuple(queues), tuple(_workers(keys, beats[::2], beats[1::2], now)))


def _queue(
    name: str,
    row: list[Any],
    head: list[bytes | None],
    accepted: Mapping[bytes, bytes],
    last: Mapping[bytes, bytes],
    now: float,
) -> QueueState:
    waiting, _, claimed, put_off, failed = row
    latest = last.get(name.encode())
    return QueueState(
        name,
        int(accepted.get(name.encode(), 0)),
        max(0.0, now - int(latest) / SECOND) if latest else None,
        waiting,
        _age(head, now),
        claimed,
        put_off,
        failed,
    )


def _age(head: list[bytes | None], now: float) -> float | None:
    """How long a queue's first job has waited: an event since it was accepted, a user's job since it was enqueued."""
    stamp, enqueued_at = head
    if stamp:
        return max(0.0, now - int(stamp) / SECOND)
    return max(0.0, now - _moment(enqueued_at).timestamp()) if enqueued_at else None


def _workers(
    keys: Iterable[str], hashes: Iterable[list[bytes | None]], leases: Iterable[int], now: float
) -> Iterable[WorkerState]:
    for key, fields, lease in zip(keys, hashes, leases, strict=True):
        host, state, beat, queues, done, failed = fields
        if beat is None:
            continue  # its hash has expired: it died long ago
        silence = max(0.0, now - _moment(beat).timestamp())
        yield WorkerState(
            key.removeprefix("rq:worker:"),
            (host or b"").decode(),
            (state or b"?").decode(),
            silence,
            bool(lease) or silence <= SILENT_SECONDS,
            tuple((queues or b"").decode().split(",")),
            int(done or 0),
            int(failed or 0),
        )


def _moment(text: bytes) -> datetime:
    moment: datetime = utcparse(text.decode())
    return moment
