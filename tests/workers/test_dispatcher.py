"""What the outbox owes becomes RQ jobs: once each, in order, readable, and quick to be taken."""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa
from rq.job import JobStatus

from bridge import embedded
from bridge.config import Config
from tests.installation import settings
from tests.servers import wait_until
from tests.workers.helpers import Desk, Shop, a_user, an_event, few_parameters, user
from workers import jobs, registry
from workers.errors import JobsModuleMissing
from workers.store import ledger, tables
from workers.store.ledger import Owed

U1 = user("u1")


def test_a_job_is_an_ordinary_one_that_people_can_read(shop: Shop) -> None:
    shop.desk.registry.on("user_modify_org", queue="slow")(shop.keep)
    shop.desk.registry.on_change("user")(shop.keep)
    shop.happen(an_event(users=["u1"]), given={U1: a_user(name="Zhang San", mobile="13800000001")})
    (slow,), (quick,) = shop.queue("slow").jobs, shop.queue().jobs
    name = f"{shop.keep.__module__}.{shop.keep.__qualname__}"
    assert slow.description == f"{name} user_modify_org dingcorp…"
    assert quick.description == f"{name} user create dingcorp…"
    assert {slow.func_name, quick.func_name} == {jobs.JOB_FUNCTION}
    assert slow.args == [int(slow.id.removeprefix("outbox-")), jobs.VERSION]
    assert {slow.get_status(), quick.get_status()} == {JobStatus.QUEUED}
    told = repr([shop.connection.hgetall(slow.key), shop.connection.hgetall(quick.key)])
    assert "Zhang" not in told
    assert "13800000001" not in told


def test_a_stock_worker_can_resolve_the_function_and_is_told_what_to_do(shop: Shop) -> None:
    shop.desk.registry.on("user_modify_org")(shop.keep)
    shop.happen(an_event(users=["u1"]), given={U1: a_user()})
    (job,) = shop.queue().jobs
    with pytest.raises(RuntimeError, match="dingbridge jobs"):
        job.func(*job.args)


def test_what_was_enqueued_is_not_enqueued_again(shop: Shop) -> None:
    shop.desk.registry.on("user_modify_org")(shop.keep)
    shop.happen(an_event(users=["u1"]), given={U1: a_user()})
    lanes = {row["lane"] for row in shop.owed()}
    assert shop.dispatcher.dispatch(lanes) == 0
    assert shop.dispatcher.dispatch([]) == 0
    assert len(shop.queue()) == 1
    assert shop.owed()[0]["enqueued_at"] is not None


def test_what_redis_did_not_take_is_still_owed(shop: Shop, tmp_path: Path) -> None:
    shop.desk.registry.on("user_modify_org")(shop.keep)
    shop.desk.script.answers[U1] = a_user()
    lanes = shop.desk.apply(an_event(users=["u1"])).lanes
    away = redis.Redis(unix_socket_path=str(tmp_path / "none.sock"), retry=embedded.NO_RETRY)
    with pytest.raises(redis.ConnectionError):
        jobs.Dispatcher(shop.desk.store, away).dispatch(lanes)
    assert shop.owed()[0]["enqueued_at"] is None
    assert shop.dispatcher.dispatch(lanes) == 1


def test_what_a_dead_worker_committed_goes_before_what_came_later(shop: Shop) -> None:
    """It died between its commit and its dispatch: the next change of that entity takes the lane along."""
    shop.desk.registry.on_change("user")(shop.keep)
    shop.desk.script.answers[U1] = a_user(name="one")
    shop.desk.apply(an_event(users=["u1"]))
    assert len(shop.queue()) == 0
    shop.happen(an_event(users=["u1"]), given={U1: a_user(name="two")})
    shop.work()
    assert [change.after["name"] for change in shop.called] == ["one", "two"]


def test_a_job_wakes_a_worker_that_waits_for_its_queue(shop: Shop) -> None:
    shop.desk.registry.on("user_modify_org")(shop.keep)
    worker = shop.worker()
    worker.turn()
    dispatching = threading.Timer(0.1, shop.happen, [an_event(users=["u1"])], {"given": {U1: a_user()}})
    dispatching.start()
    begun = time.monotonic()
    worker.claims.wait(20)
    dispatching.join()
    assert time.monotonic() - begun < 10
    assert worker.turn()
    assert len(shop.called) == 1


def test_two_dispatchers_enqueue_each_job_once_and_in_order(shop: Shop) -> None:
    shop.desk.registry.on_change("user")(shop.keep)
    lanes: set[str] = set()
    for number in range(30):
        shop.desk.script.answers[U1] = a_user(name=str(number))
        lanes |= shop.desk.apply(an_event(users=["u1"])).lanes
    start = threading.Barrier(4)

    def dispatch(_: int) -> int:
        start.wait()
        return shop.dispatcher.dispatch(lanes)

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(dispatch, range(4))) == [0, 0, 0, 30]
    assert shop.queue().get_job_ids() == [jobs.job_id(row["id"]) for row in shop.owed()]


def test_more_of_a_lane_than_a_statement_takes(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    with shop.desk.store.writing() as tx:
        ledger.owe(tx, [Owed("m.f", "jobs", lane) for lane in "aabaacaa"])
    monkeypatch.setattr(jobs, "CHUNK", 2)
    with few_parameters(shop.desk, 3):
        assert shop.dispatcher.dispatch("abc") == 8
        assert shop.dispatcher.dispatch("abc") == 0
    waiting = shop.queue().get_job_ids()
    lanes = {lane: [jobs.job_id(row["id"]) for row in shop.owed() if row["lane"] == lane] for lane in "abc"}
    assert {lane: [job for job in waiting if job in ids] for lane, ids in lanes.items()} == lanes


def test_what_another_dispatcher_is_about_to_enqueue_is_left_to_it(postgresql_desk: Desk, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection, ThreadPoolExecutor(1) as pool:
        shop = Shop(postgresql_desk, connection)
        shop.desk.registry.on("user_modify_org")(shop.keep)
        shop.desk.script.answers[U1] = a_user()
        lanes = shop.desk.apply(an_event(users=["u1"])).lanes
        with shop.desk.store.writing() as tx:
            tx.execute(sa.update(tables.outbox).values(enqueued_at=datetime.now(UTC)))
            other = pool.submit(shop.dispatcher.dispatch, lanes)
            wait_until(lambda: _waits_for_a_lock(shop.desk), 10, "the second dispatcher")
        assert other.result() == 0
        assert len(shop.queue()) == 0


def _waits_for_a_lock(desk: Desk) -> bool:
    with desk.store.reading() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory for modules with jobs; they are forgotten at the end."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_modules_of_the_working_directory_register_their_functions(folder: Path) -> None:
    (folder / "some_jobs_of_mine.py").write_text(
        'from workers import on\n\n@on("user_leave_org", queue="some")\ndef bye(event, directory): ...\n'
    )
    found = jobs.load_registry(Config.model_validate(settings(jobs=["some_jobs_of_mine"])))
    assert found is registry
    job = found.find("some_jobs_of_mine.bye")
    assert job is not None
    assert (job.queue, job in found.for_event("user_leave_org")) == ("some", True)
    assert "some" in found.queues()


def test_a_module_that_is_missing_is_named(folder: Path) -> None:
    with pytest.raises(JobsModuleMissing, match="no_such_module_of_mine"):
        jobs.load_registry(Config.model_validate(settings(jobs=["no_such_module_of_mine"])))


def test_a_module_that_a_module_misses_is_named(folder: Path) -> None:
    (folder / "jobs_with_a_gap.py").write_text("import no_such_module_of_theirs\n")
    with pytest.raises(JobsModuleMissing, match=r"jobs_with_a_gap.*no_such_module_of_theirs"):
        jobs.load_registry(Config.model_validate(settings(jobs=["jobs_with_a_gap"])))
