"""Which entities are named by events that still lie in Redis. Looks, and takes nothing."""

from collections.abc import Iterable, Iterator
from itertools import islice

import redis
from rq.utils import as_text

from bridge import events, queues
from bridge.events import Entity

#: Jobs that are looked up in one round trip.
CHUNK = 500


def pending(connection: redis.Redis, corp_id: str) -> set[Entity]:
    """The entities of a corp whose event waits, is put off or is in a worker's hand. Raises RedisError."""
    found: set[Entity] = set()
    ids = _job_ids(connection)
    while chunk := list(islice(ids, CHUNK)):
        with connection.pipeline(transaction=False) as pipeline:
            for job_id in chunk:
                pipeline.hget(f"rq:job:{job_id}", "data")
            jobs: Iterable[bytes | None] = pipeline.execute()
        for data in jobs:
            found |= _entities(data, corp_id)
    return found


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


def _entities(data: bytes | None, corp_id: str) -> set[Entity]:
    try:
        event = queues.decode(data or b"")
    except ValueError:
        return set()  # it is finished and forgotten meanwhile, or no event's job: a worker says so
    return {entity for entity in events.entities(event) if entity.corp_id == corp_id}
