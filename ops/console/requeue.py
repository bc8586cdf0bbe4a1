"""Jobs fed in again or forgotten, many at once, each in one atomic step: no kill in between can lose one."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import redis

from bridge.accept import WAKE_LIMIT, WAKE_PREFIX

#: Jobs that one call of a script moves; keeps Redis busy for a few milliseconds.
CHUNK = 500
#: The registry (`rq:<registry>:<queue>`) where a job of each status lies that may be fed in again.
REQUEUEABLE = {
    "failed": "failed",
    "stopped": "failed",
    "scheduled": "scheduled",
    "finished": "finished",
    "canceled": "canceled",
}
#: Registries of jobs that are done with; what lies elsewhere was acknowledged and must not be lost.
ENDED = frozenset({"failed", "finished", "canceled"})

_REQUEUE = """
-- rq:<registry>:<queue>  zset: ids of jobs that wait for nobody
-- rq:job:<id>, rq:results:<id>  hash: the job; stream: how it ended before
-- rq:queue:<queue>, bridge:wake:<queue>  list: ids of waiting jobs; wakes a worker
local registry, queue, wake = KEYS[1], KEYS[2], KEYS[3]
local moved = 0
for i = 3, #ARGV do
  local key = 'rq:job:' .. ARGV[i]
  if redis.call('ZREM', registry, ARGV[i]) == 1 and redis.call('EXISTS', key) == 1 then
    redis.call('HSET', key, 'status', 'queued', 'enqueued_at', ARGV[2])
    redis.call('HDEL', key, 'started_at', 'ended_at', 'last_heartbeat', 'worker_name', 'exc_info', 'number_of_retries')
    redis.call('PERSIST', key)
    redis.call('DEL', 'rq:results:' .. ARGV[i])
    redis.call('RPUSH', queue, ARGV[i])
    moved = moved + 1
  end
end
if moved > 0 then
  redis.call('RPUSH', wake, '1')
  redis.call('LTRIM', wake, 0, ARGV[1] - 1)
end
return moved
"""

_FORGET = """
local forgotten = 0
for i = 1, #ARGV do
  if redis.call('ZREM', KEYS[1], ARGV[i]) == 1 then
    local key = 'rq:job:' .. ARGV[i]
    redis.call('DEL', key, key .. ':dependents', key .. ':dependencies', 'rq:results:' .. ARGV[i])
    forgotten = forgotten + 1
  end
end
return forgotten
"""


class Requeuer:
    """RQ's own requeue, delete and compact take several steps, and lose what a kill catches between two of them.

    Raises RedisError.
    """

    def __init__(self, connection: redis.Redis) -> None:
        self._connection = connection
        self._requeue = connection.register_script(_REQUEUE)
        self._forget = connection.register_script(_FORGET)

    def requeue(self, queue: str, registry: str, ids: Sequence[str | bytes]) -> int:
        """Put these jobs of a registry to the end of their queue; how many were there."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        keys = [f"rq:{registry}:{queue}", f"rq:queue:{queue}", f"{WAKE_PREFIX}{queue}"]
        return int(self._requeue(keys=keys, args=[WAKE_LIMIT, now, *ids]))

    def requeue_all(self, queue: str, registry: str) -> int:
        """The same for as many as lie there now; what fails again meanwhile is left."""
        return sum(self.requeue(queue, registry, ids) for ids in self._chunks(queue, registry))

    def forget(self, queue: str, registry: str, ids: Sequence[str | bytes]) -> int:
        """Delete these jobs of a registry in ENDED; how many were there."""
        return int(self._forget(keys=[f"rq:{registry}:{queue}"], args=ids))

    def forget_all(self, queue: str, registry: str) -> int:
        """The same for as many as lie there now."""
        return sum(self.forget(queue, registry, ids) for ids in self._chunks(queue, registry))

    def compact(self, queue: str) -> int:
        """Drop ids from a queue whose job is no more; how many."""
        key, place, gone = f"rq:queue:{queue}", 0, 0
        while ids := self._ids(key, place):
            with self._connection.pipeline(transaction=False) as pipeline:
                for job_id in ids:
                    pipeline.exists(f"rq:job:{job_id.decode()}")
                ghosts = [job_id for job_id, there in zip(ids, pipeline.execute(), strict=True) if not there]
                for job_id in ghosts:
                    pipeline.lrem(key, 1, job_id)  # the first: a job accepted meanwhile stands behind it
                gone += sum(pipeline.execute())
            place += len(ids) - len(ghosts)
        return gone

    def _chunks(self, queue: str, registry: str) -> Iterator[list[Any]]:
        """The ids of a registry, those first that are forgotten first; whoever takes them empties it."""
        key = f"rq:{registry}:{queue}"
        left = self._connection.zcard(key)
        while left > 0 and (ids := self._connection.zrange(key, 0, min(CHUNK, left) - 1)):
            left -= len(ids)
            yield ids

    def _ids(self, key: str, place: int) -> list[Any]:
        """Of a queue the next ids from this place on."""
        return self._connection.lrange(key, place, place + CHUNK - 1)
