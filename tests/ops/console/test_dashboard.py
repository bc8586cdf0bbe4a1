"""rq-dashboard's faults, each mended, on a real Redis with real jobs."""

import json
from datetime import UTC, datetime

import pytest
import redis
from rq import Queue, SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from werkzeug.test import TestResponse

from ops.console.requeue import CHUNK
from tests.ops.console import sample
from tests.ops.console.visitor import Opener, Visitor

SECRET = "s3cret-of-redis"


def status(connection: redis.Redis, job_id: str) -> JobStatus:
    return Job.fetch(job_id, connection, JSONSerializer).get_status()


def waiting(connection: redis.Redis, queue: str = "user_add_org") -> list[str]:
    return Queue(queue, connection=connection, serializer=JSONSerializer).get_job_ids()


@pytest.mark.parametrize("page", ["/rq/", "/rq/0/view/queues", "/rq/0/view/jobs", "/rq/0/view/workers"])
def test_pages_open_without_a_job_and_with_some(visitor: Visitor, connection: redis.Redis, page: str) -> None:
    assert visitor.get(page).status_code == 200
    sample.accept(connection, 2)
    assert visitor.get(page).status_code == 200


def test_workers_are_shown_while_a_json_job_runs(visitor: Visitor, connection: redis.Redis) -> None:
    queue = Queue("jobs", connection=connection, serializer=JSONSerializer)
    queue.enqueue("workers.jobs.run", sample.PERSON, job_id="outbox-1", description="my_company.welcome user_add_org")
    seen: list[TestResponse] = []

    class Watched(SimpleWorker):
        def perform_job(self, job: Job, queue: Queue, execution: Execution) -> bool:
            seen.append(visitor.get("/rq/0/data/workers.json"))
            return super().perform_job(job, queue, execution)

    Watched([queue], connection=connection, serializer=JSONSerializer).work(burst=True)
    assert seen[0].json
    (worker,) = seen[0].json["workers"]
    assert worker["current_job"]["job_id"] == "outbox-1"
    assert worker["current_job"]["call_string"] == "my_company.welcome user_add_org"
    assert worker["queues"] == ["jobs"]


@pytest.mark.parametrize("job_id", ["unknown", "not:an-id", "a b", "%00"])
def test_a_job_that_is_gone_is_a_404(visitor: Visitor, job_id: str) -> None:
    for path in (f"/rq/0/view/job/{job_id}", f"/rq/0/data/job/{job_id}.json"):
        assert visitor.get(path).status_code == 404
    for verb in ("requeue", "delete"):
        assert visitor.post(f"/rq/job/{job_id}/{verb}").status_code == 404


def test_nothing_is_requeued_by_get(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 1)
    (job_id,) = sample.fail(connection, 1, "no permission")
    for path in ("/rq/requeue/user_add_org", f"/rq/job/{job_id}/requeue", "/rq/queue/user_add_org/failed/empty"):
        assert visitor.get(path).status_code == 405
        assert visitor.client.post(path).status_code == 400
    assert status(connection, job_id) == JobStatus.FAILED


def test_a_failed_event_is_requeued_and_can_be_claimed(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 1)
    (job_id,) = sample.fail(connection, 1, "no permission")
    assert connection.ttl(f"rq:job:{job_id}") > 0
    assert visitor.act(f"/rq/job/{job_id}/requeue") == 1
    assert connection.ttl(f"rq:job:{job_id}") == -1
    assert connection.zcard("rq:failed:user_add_org") == 0
    assert visitor.data(f"/rq/0/data/job/{job_id}.json")["exc_info"] is None
    _, (claim,) = sample.claim(connection, 5)
    assert claim.job_id == job_id
    assert claim.stamp > 0
    assert visitor.post(f"/rq/job/{job_id}/requeue").status_code == 409


def test_what_was_put_off_or_is_finished_is_requeued(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 2)
    claims, (first, second) = sample.claim(connection, 2)
    claims.put_off(first, 300, 7)
    claims.finish([second])
    for claim in (first, second):
        assert visitor.act(f"/rq/job/{claim.job_id}/requeue") == 1
    assert connection.zcard("rq:scheduled:user_add_org") == 0
    assert waiting(connection) == [first.job_id, second.job_id]
    assert [claim.attempts for claim in sample.claim(connection, 2)[1]] == [0, 0]


def test_a_users_job_that_failed_is_requeued_and_runs(visitor: Visitor, connection: redis.Redis) -> None:
    queue = Queue("jobs", connection=connection, serializer=JSONSerializer)
    queue.enqueue("workers.jobs.run", 1, 1, job_id="outbox-1")  # a stock worker cannot run it, so it fails
    worker = SimpleWorker([queue], connection=connection, serializer=JSONSerializer)
    worker.log.disabled = True
    for _ in range(2):
        worker.work(burst=True)
        assert status(connection, "outbox-1") == JobStatus.FAILED
        assert visitor.act("/rq/requeue/jobs") == 1
        assert status(connection, "outbox-1") == JobStatus.QUEUED


def test_many_failed_ones_are_requeued_at_once(visitor: Visitor, connection: redis.Redis) -> None:
    count = 2 * CHUNK + 1
    many = fill_failed(connection, count)
    began = datetime.now(UTC)
    assert visitor.act("/rq/requeue/user_add_org") == count
    assert (datetime.now(UTC) - began).total_seconds() < 5
    assert sorted(waiting(connection)) == sorted(many)
    assert visitor.act("/rq/requeue/user_add_org") == 0


def fill_failed(connection: redis.Redis, count: int) -> list[str]:
    """So many failed jobs, without the time that failing takes."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    data = json.dumps(["workers.batch.apply", None, [{}], {}])
    fields = ["status", "failed", "origin", "user_add_org", "data", data, "created_at", now, "description", "x"]
    ids = [f"job-{number:06}" for number in range(count)]
    with connection.pipeline(transaction=False) as pipeline:
        for number, job_id in enumerate(ids):
            pipeline.hset(f"rq:job:{job_id}", items=fields)
            pipeline.zadd("rq:failed:user_add_org", {job_id: 4_000_000_000 + number})
        pipeline.execute()
    return ids


@pytest.mark.parametrize("order", ["asc", "dsc"])
def test_every_page_of_a_long_list_is_as_long_as_the_first(
    visitor: Visitor, connection: redis.Redis, order: str
) -> None:
    ids = fill_failed(connection, 1003)
    wanted = ids if order == "asc" else ids[::-1]
    for page in (1, 2, 100, 126):
        data = visitor.data(f"/rq/0/data/jobs/user_add_org/failed/8/{order}/{page}.json")
        assert [job["id"] for job in data["jobs"]] == wanted[8 * (page - 1) : 8 * page]
        assert data["pagination"]["num_pages"] == 126
        assert ("next_page" in data["pagination"]) == (page < 126)
        assert ("prev_page" in data["pagination"]) == (page > 1)
        linked = [link["number"] for link in data["pagination"]["pages_in_window"]]
        assert len(linked) == 10
        assert page in linked
    beyond = visitor.data(f"/rq/0/data/jobs/user_add_org/failed/8/{order}/127.json")
    assert beyond["jobs"] == []


def test_every_registry_lists_its_jobs(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 5)
    (failed,) = sample.fail(connection, 1, "no permission")
    claims, (put_off, done, taken) = sample.claim(connection, 3)
    claims.put_off(put_off, 300, 1)
    claims.finish([done])
    for registry, expected in {
        "queued": "event-4",
        "failed": failed,
        "scheduled": put_off.job_id,
        "finished": done.job_id,
        "started": taken.job_id,
    }.items():
        for order in ("asc", "dsc"):
            data = visitor.data(f"/rq/0/data/jobs/user_add_org/{registry}/8/{order}/1.json")
            assert [job["id"] for job in data["jobs"]] == [expected]
        assert visitor.get(f"/rq/0/view/job/{expected}").status_code == 200
        assert visitor.data(f"/rq/0/data/job/{expected}.json")["origin"] == "user_add_org"
    assert visitor.data(f"/rq/0/data/job/{taken.job_id}.json")["status"] == "started"


@pytest.mark.parametrize(
    "list_", ["nonsense/8/asc/1", "failed/201/asc/1", "failed/0/asc/1", "failed/8/up/1", "failed/8/asc/0"]
)
def test_a_list_that_is_none_is_a_404(visitor: Visitor, list_: str) -> None:
    assert visitor.get(f"/rq/0/data/jobs/user_add_org/{list_}.json").status_code == 404
    assert visitor.get(f"/rq/0/view/jobs/user_add_org/{list_}").status_code == 404


def test_there_is_one_redis(visitor: Visitor) -> None:
    for path in ("/rq/1/view/queues", "/rq/1/data/queues.json", "/rq/7/view/jobs"):
        assert visitor.get(path).status_code == 404


def test_what_waits_is_not_deleted(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 3)
    claims, (put_off, taken) = sample.claim(connection, 2)
    claims.put_off(put_off, 300, 1)
    for job_id in ("event-2", put_off.job_id, taken.job_id):
        assert visitor.post(f"/rq/job/{job_id}/delete").status_code == 409
        assert connection.exists(f"rq:job:{job_id}")
        assert 'id="delete-job-btn"' not in visitor.get(f"/rq/0/view/job/{job_id}").text
    for registry in ("queued", "scheduled", "started", "deferred", "nonsense"):
        assert visitor.post(f"/rq/queue/user_add_org/{registry}/empty").status_code == 409
    assert waiting(connection) == ["event-2"]


def test_what_failed_or_is_finished_can_be_deleted(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 4)
    first, *_ = sample.fail(connection, 3, "no permission")
    assert visitor.act(f"/rq/job/{first}/delete") == 1
    assert visitor.get(f"/rq/0/view/job/{first}").status_code == 404
    assert visitor.act("/rq/queue/user_add_org/failed/empty") == 2
    assert not list(connection.scan_iter("rq:results:*"))
    claims, taken = sample.claim(connection, 1)
    claims.finish(taken)
    assert visitor.act("/rq/queue/user_add_org/finished/empty") == 1
    assert not list(connection.scan_iter("rq:job:*"))


def test_compacting_drops_ids_without_a_job_and_nothing_else(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 3)
    connection.lpush("rq:queue:user_add_org", "ghost", "ghost")
    connection.delete("rq:job:event-1")
    assert visitor.act("/rq/queue/user_add_org/compact") == 3
    assert waiting(connection) == ["event-0", "event-2"]


def test_no_pickle_is_opened(visitor: Visitor, connection: redis.Redis) -> None:
    evil = b"cbuiltins\nexec\n(S'raise SystemExit(\"a pickle was opened\")'\ntR."
    sample.accept(connection, 1)
    (job_id,) = sample.fail(connection, 1, "no permission")
    connection.hset(f"rq:job:{job_id}", items=["meta", evil, "result", evil])
    for path in (f"/rq/0/view/job/{job_id}", "/rq/0/data/jobs/user_add_org/failed/8/asc/1.json"):
        assert visitor.get(path).status_code == 200
    assert visitor.post(f"/rq/job/{job_id}/requeue").status_code == 200


def test_the_password_of_redis_is_on_no_page(opened: Opener, connection: redis.Redis) -> None:
    connection.config_set("requirepass", SECRET)
    try:
        kwargs = connection.connection_pool.connection_kwargs
        with redis.Redis(unix_socket_path=kwargs["path"], password=SECRET) as locked:
            visitor = opened(at=locked, redis={"url": f"redis://:{SECRET}@localhost/0"})
            visitor.log_in()
            for page in ("/", "/rq/", "/rq/0/view/jobs", "/rq/0/view/workers", "/rq/0/data/queues.json", "/metrics"):
                answer = visitor.get(page)
                assert answer.status_code == 200
                assert SECRET not in answer.text
            locked.config_set("requirepass", "")
    finally:
        connection.connection_pool.disconnect()
