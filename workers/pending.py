"""The events that still lie in Redis, and which entities they name. Looks, and takes nothing."""

from collections.abc import Iterable, Iterator
from itertools import islice

import redis
from rq.utils import as_text

from bridge import events, queues
from bridge.events import Entity, Event

#: Jobs that are looked up in one round trip.
CHUNK = 500


def pending(connection: redis.Redis, corp_id: str) -> set[Entity]:
    """The entities of a corp that such an event names. Raises RedisError."""
    named = (entity for event in waiting(connection) for entity in events.entities(event))
    return {entity for entity in named if entity.corp_id == corp_id}


def waiting(connection: redis.Redis) -> Iterator[Event]:
    """Each event that waits, is put off or is in a worker's hand. Raises RedisError."""
    ids = _job_ids(connection)
    while chunk := list(islice(ids, CHUNK)):
        with connection.pipeline(transaction=False) as pipeline:
            for job_id in chunk:
                pipeline.hget(f"rq:job:{job_id}", "data")
            jobs: Iterable[bytes | None] = pipeline.execute()
        for data in jobs:
            try:
                yield queues.decode(data or b"")
            except ValueError:
                continue  # it is finished and forgotten meanwhile, or no event's job: a worker says so


def _job_ids(connection: redis.Redis) -> Iterator[str]:
    """See workers/claims.py for the keys."""
    for name in events.queue_names():
        start = 0
        while ids := connection.lrange(f"rq:queue:{name}", start, start + CHUNK - 1):
            yield from map(as_text, ids)
            start += len(ids)
        for job_id, _ in connection.zscan_iter(f"rq:scheduled:{name}"):
            yield as_text(job_id)
        for member, _ in connection.zscan_iter(f"rq:wip:{name}"):
            yield as_text(member).partition(":")[0]
