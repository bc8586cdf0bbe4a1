"""What lies in Redis is counted as it is."""

import time
from datetime import UTC, datetime, timedelta

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from bridge.queues import show_queues
from ops.console.backlog import SILENT_SECONDS, QueueState, observe
from tests.ops.console import sample


def state(connection: redis.Redis, name: str) -> QueueState:
    return next(queue for queue in observe(connection).queues if queue.name == name)


def test_an_empty_redis(connection: redis.Redis) -> None:
    assert observe(connection) == ((), ())
    assert observe(connection).total == QueueState("all", 0, None, 0, None, 0, 0, 0)
    show_queues(connection)
    assert all(queue.quiet for queue in observe(connection).queues)


def test_counts_and_ages(connection: redis.Redis) -> None:
    sample.accept(connection, 4)
    sample.accept(connection, 2, "org_change", first=10)
    seconds, micros = connection.time()
    stamp = seconds * 1_000_000 + micros
    connection.hset("rq:job:event-1", "stamp", stamp - 90_000_000)
    sample.claim(connection, 1)
    seen = state(connection, "user_add_org")
    assert seen._replace(last=0, oldest=0) == ("user_add_org", 4, 0, 3, 0, 1, 0, 0)
    assert seen.last is not None and 0 <= seen.last < 10
    assert seen.oldest is not None and 90 <= seen.oldest < 100
    total = observe(connection).total
    assert (total.accepted, total.waiting, total.claimed, total.oldest) == (6, 5, 1, total.oldest)
    assert total.oldest is not None and total.oldest >= 90


def test_a_users_job_has_an_age_too(connection: redis.Redis) -> None:
    Queue("jobs", connection=connection, serializer=JSONSerializer).enqueue("workers.jobs.run", 1, 1, job_id="outbox-1")
    before = datetime.now(UTC) - timedelta(seconds=30)
    connection.hset("rq:job:outbox-1", "enqueued_at", before.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
    oldest = state(connection, "jobs").oldest
    assert oldest is not None and 25 < oldest < 60


def test_an_id_without_a_job_has_no_age(connection: redis.Redis) -> None:
    sample.accept(connection, 1)
    connection.delete("rq:job:event-0")
    assert state(connection, "user_add_org").oldest is None


def test_a_worker_lives_by_its_beat_or_its_lease(connection: redis.Redis) -> None:
    silent = datetime.fromtimestamp(time.time() - SILENT_SECONDS - 60, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    beating = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    for name, beat in (("beating", beating), ("leased", silent), ("silent", silent)):
        connection.sadd("rq:workers", f"rq:worker:{name}")
        connection.hset(f"rq:worker:{name}", mapping={"last_heartbeat": beat, "queues": "a,b", "hostname": "h"})
    connection.sadd("rq:workers", "rq:worker:expired")
    connection.set("bridge:lease:leased", "1", ex=15)
    seen = observe(connection)
    assert {worker.name: worker.alive for worker in seen.workers} == {"beating": True, "leased": True, "silent": False}
    assert seen.alive == 2
    assert seen.workers[0].queues == ("a", "b")
