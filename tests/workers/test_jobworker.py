"""Users' functions as they are run: with what, how often, and what becomes of those that fail, hang or kill."""

import asyncio
import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from rq import Callback, Webhook
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry, StartedJobRegistry

from tests.installation import CORP
from tests.workers.helpers import Shop, a_department, a_role_list, a_user, an_event, department, roles, user
from workers import claims, jobs, jobworker
from workers.directory import Change, Event, StoreDirectory
from workers.jobworker import JobWorker
from workers.registry import Registry
from workers.store import ledger, tables

U1 = user("u1")


def failing(shop: Shop, *errors: BaseException) -> Callable[[Any, Any], None]:
    """A function that raises these, one a call, and then does its work."""
    left = list(errors)

    def fails(argument: Any, directory: Any) -> None:
        shop.called.append(argument)
        if left:
            raise left.pop(0)

    return fails


def owe(shop: Shop, function: Callable[[Any, Any], None], **options: Any) -> str:
    """One job for this function; its id."""
    shop.desk.registry.on("user_modify_org", **options)(function)
    shop.happen(an_event(users=["u1"], event_id="e1"), given={U1: a_user()})
    (row,) = shop.owed()
    return jobs.job_id(row["id"])


def warm(shop: Shop, function: Callable[[Any, Any], None]) -> JobWorker:
    """A worker that has run one job already, and so knows the pace; `function` waits for user_modify_org."""
    worker = shop.worker()
    shop.desk.registry.on("user_active_org")(shop.keep)
    shop.desk.registry.on("user_modify_org")(function)
    shop.happen(an_event("user_active_org", ["u1"]), given={U1: a_user()})
    worker.turn()
    shop.called.clear()
    return worker


def kill(shop: Shop) -> None:
    """A worker takes a job, and its death is noticed."""
    dead = shop.worker()
    assert len(dead.claims.claim(1)[0]) == 1
    shop.connection.delete(f"bridge:lease:{dead.name}")
    shop.connection.hset(claims.MISSING_KEY, dead.name, 0)
    assert shop.worker().claims.sweep() == 1


class TestArguments:
    def test_an_event_as_the_datastore_has_caught_up_with_it(self, shop: Shop) -> None:
        seen = []

        @shop.desk.registry.on("user_add_org")
        def welcome(event: Event, directory: StoreDirectory) -> None:
            seen.append((event, directory.user(event.user_ids[0])))

        shop.happen(an_event("user_add_org", ["u1"], event_id="e1"), given={U1: a_user(departments={2: 7})})
        shop.work()
        ((event, found),) = seen
        assert (event.id, event.type, event.corp_id, event.app) == ("e1", "user_add_org", CORP, "acme")
        assert (event.user_ids, event.dept_ids, event.role_ids) == (("u1",), (), ())
        assert event.occurred_at == datetime.fromtimestamp(1_700_000_000, UTC)
        assert event.payload == {"EventType": "user_add_org"}
        assert found is not None
        assert found["departments"] == [{"dept_id": 2, "leader": False, "sort_order": 7}]

    def test_a_change_as_it_was_committed(self, shop: Shop) -> None:
        shop.desk.registry.on_change("user")(shop.keep)
        for name in ("one", "two"):
            shop.happen(an_event(users=["u1"], event_id=name), given={U1: a_user(name=name, departments={2: 1})})
        shop.work()
        rows = shop.desk.rows(tables.changes, entity="user")
        assert shop.called == [Change(**row) for row in rows]
        last = shop.called[-1]
        assert (last.operation, last.event_id, last.entity_id) == ("update", "two", "u1")
        assert (last.before["name"], last.after["name"]) == ("one", "two")
        assert last.after["departments"] == [{"dept_id": 2, "leader": False, "sort_order": 1}]

    def test_an_event_without_a_corp(self, shop: Shop) -> None:
        shop.desk.registry.on("suite_ticket")(shop.keep)
        shop.happen(an_event("suite_ticket", corp=None, event_id="e1"))
        shop.work()
        assert [(event.id, event.corp_id) for event in shop.called] == [("e1", None)]


class TestWhatRuns:
    def test_every_event_once_folded_or_not(self, shop: Shop) -> None:
        shop.desk.registry.on("user_modify_org")(shop.keep)
        happened = [an_event(users=["u1"], event_id=f"e{number}") for number in range(3)]
        shop.happen(*happened, given={U1: a_user()})
        shop.happen(*happened)
        shop.work()
        assert [event.id for event in shop.called] == ["e0", "e1", "e2"]
        assert shop.desk.statuses() == {"e0": "applied", "e1": "folded", "e2": "folded"}

    def test_the_types_it_waits_for_alone(self, shop: Shop) -> None:
        shop.desk.registry.on("user_add_org", "user_leave_org")(shop.keep)
        types = ("user_add_org", "user_modify_org", "user_leave_org")
        shop.happen(*(an_event(type, ["u1"]) for type in types), given={U1: a_user()})
        shop.work()
        assert [event.type for event in shop.called] == ["user_add_org", "user_leave_org"]

    def test_the_entities_it_waits_for_alone(self, shop: Shop) -> None:
        shop.desk.registry.on_change("role")(shop.keep)
        given = {U1: a_user(), roles(): a_role_list({1: {11: "a"}})}
        shop.happen(an_event(users=["u1"]), an_event("label_conf_add"), given=given)
        shop.work()
        assert [(change.entity, change.entity_id) for change in shop.called] == [("role", "11")]

    def test_only_what_really_changed(self, shop: Shop) -> None:
        shop.desk.registry.on_change("user")(shop.keep)
        for _ in range(3):
            shop.happen(an_event(users=["u1"]), given={U1: a_user()})
        shop.work()
        assert len(shop.called) == 1

    def test_changes_of_one_entity_in_their_order(self, shop: Shop) -> None:
        shop.desk.registry.on_change("user", "department")(shop.keep)
        for number in range(5):
            given = {U1: a_user(name=str(number)), department(2): a_department(2, name=str(number))}
            shop.happen(an_event("org_dept_modify", departments=[2]), an_event(users=["u1"]), given=given)
        shop.work()
        for kind in ("user", "department"):
            seqs = [change.seq for change in shop.called if change.entity == kind]
            assert len(seqs) == 5
            assert seqs == sorted(seqs)


class TestTogether:
    @pytest.fixture(autouse=True)
    def patient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As if all functions were quick, however busy this machine is."""
        monkeypatch.setattr(jobworker, "BATCH_SECONDS", 1000)

    def test_quick_jobs_share_a_turn(self, shop: Shop) -> None:
        worker = warm(shop, shop.keep)
        count = jobworker.BATCH + 3
        shop.happen(*(an_event(users=["u1"], event_id=f"e{number}") for number in range(count)))
        assert worker.turn()
        assert len(shop.called) == jobworker.BATCH
        assert worker.turn()
        assert [event.id for event in shop.called] == [f"e{number}" for number in range(count)]
        assert (worker.turn(), shop.owed()) == (False, [])

    def test_slow_ones_do_not(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        worker = warm(shop, shop.keep)
        monkeypatch.setattr(jobworker, "BATCH_SECONDS", 0)
        shop.happen(*(an_event(users=["u1"]) for _ in range(jobworker.BATCH + 2)))
        worker.turn()
        worker.turn()
        assert len(shop.called) == jobworker.BATCH + 1

    def test_behind_one_that_takes_long_others_go_on(self, shop: Shop) -> None:
        seen: list[Any] = []

        def take_long(event: Event, directory: Any) -> None:
            shop.keep(event, directory)
            if event.id == "e1":
                worker.tick()
                seen.extend((shop.queue().get_job_ids(), FinishedJobRegistry(queue=shop.queue()).get_job_ids()))
                shop.work()

        worker = warm(shop, take_long)
        shop.happen(*(an_event(users=["u1"], event_id=f"e{number}") for number in range(4)))
        known = shop.queue().get_job_ids()
        assert worker.turn()
        waiting, done = seen
        assert waiting == known[2:]
        assert known[0] in done
        assert [event.id for event in shop.called] == ["e0", "e1", "e2", "e3"]
        assert shop.owed() == []

    def test_while_the_datastore_takes_its_time_the_lease_is_renewed(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        finish_jobs, ended = ledger.finish_jobs, list[bool]()

        def slowly(*arguments: Any) -> None:
            beside = threading.Thread(target=worker.tick)
            beside.start()
            beside.join(10)
            ended.append(not beside.is_alive())
            finish_jobs(*arguments)

        worker = warm(shop, shop.keep)
        shop.happen(an_event(users=["u1"]))
        monkeypatch.setattr(ledger, "finish_jobs", slowly)
        worker.turn()
        assert (ended, shop.owed()) == ([True], [])

    def test_one_that_raises_leaves_the_others_done(self, shop: Shop) -> None:
        worker = warm(shop, shop.keep)
        shop.desk.registry.on("user_add_org")(failing(shop, ValueError("once")))
        types = ("user_modify_org", "user_add_org", "user_modify_org")
        shop.happen(*(an_event(type, ["u1"]) for type in types))
        worker.turn()
        assert [event.type for event in shop.called] == list(types)
        assert len(shop.owed()) == ScheduledJobRegistry(queue=shop.queue()).count == 1

    def test_told_to_stop_it_begins_no_other(self, shop: Shop) -> None:
        def stop(event: Event, directory: Any) -> None:
            shop.keep(event, directory)
            worker.stopping.set()

        worker = warm(shop, stop)
        shop.happen(*(an_event(users=["u1"]) for _ in range(3)))
        worker.turn()
        assert (len(shop.called), len(shop.owed())) == (1, 2)
        assert worker.claims.give_back() == 2

    def test_a_datastore_that_is_away_at_their_end_runs_none_again(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> None:
            raise sa.exc.OperationalError("DELETE", None, Exception("away"))

        worker = warm(shop, shop.keep)
        shop.happen(*(an_event(users=["u1"]) for _ in range(3)))
        with monkeypatch.context() as patched:
            patched.setattr(ledger, "finish_jobs", away)
            with pytest.raises(sa.exc.OperationalError):
                worker.turn()
        worker.turn()
        assert (len(shop.called), shop.owed()) == (3, [])


class TestEnding:
    def test_a_job_that_is_done_leaves_the_outbox(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        shop.work()
        assert shop.owed() == []
        assert shop.job(job_id).get_status() == JobStatus.FINISHED
        assert FinishedJobRegistry(queue=shop.queue()).get_job_ids() == [job_id]

    def test_the_datastore_tells_that_it_was_done(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        (row,) = shop.owed()
        shop.work()
        done = shop.desk.row(tables.finished_jobs)
        assert job_id == f"outbox-{done['id']}"
        kept = ("id", "function", "event_id", "change_seq")
        assert {name: done[name] for name in kept} == {name: row[name] for name in kept}

    def test_its_second_coming_does_nothing(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        shop.work()
        shop.connection.rpush("rq:queue:jobs", job_id)
        shop.work()
        assert len(shop.called) == 1
        assert shop.job(job_id).get_status() == JobStatus.FINISHED

    def test_the_datastore_knows_that_it_is_done_before_redis_does(
        self, shop: Shop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Should its worker die in between, its second coming finds nothing to do."""

        def die(*_: object) -> None:
            raise redis.ConnectionError

        owe(shop, shop.keep)
        worker = shop.worker()
        monkeypatch.setattr(worker.claims, "finish", die)
        with pytest.raises(redis.ConnectionError):
            worker.turn()
        assert (len(shop.called), shop.owed()) == (1, [])

    def test_one_that_raises_is_tried_again(self, shop: Shop) -> None:
        job_id = owe(shop, failing(shop, ValueError("once"), OSError("twice")))
        for attempts, seconds in enumerate(jobworker.RETRY_SECONDS[:2], 1):
            shop.worker().turn()
            registry = ScheduledJobRegistry(queue=shop.queue())
            assert registry.get_job_ids() == [job_id]
            wait = registry.get_scheduled_time(job_id).timestamp() - shop.connection.time()[0]
            assert seconds - 1 <= wait <= seconds * 1.25 + 1
            assert shop.job(job_id).number_of_retries == attempts
            shop.due_now()
        shop.work()
        assert (len(shop.called), shop.owed()) == (3, [])
        assert shop.job(job_id).get_status() == JobStatus.FINISHED

    @pytest.mark.parametrize("retries", [0, 2])
    def test_one_that_always_raises_is_given_up_and_can_be_requeued(self, shop: Shop, retries: int) -> None:
        errors = [ValueError(f"attempt {number}") for number in range(retries + 1)]
        job_id = owe(shop, failing(shop, *errors), retries=retries)
        for _ in errors:
            shop.work()
            shop.due_now()
        assert len(shop.called) == retries + 1
        assert shop.owed()[0]["failed_at"] is not None
        registry = FailedJobRegistry(queue=shop.queue())
        assert registry.get_job_ids() == [job_id]
        assert shop.job(job_id).get_status() == JobStatus.FAILED
        assert "Traceback" in shop.reason(job_id)
        assert f"attempt {retries}" in shop.reason(job_id)
        registry.requeue(job_id)
        shop.work()
        assert (shop.owed(), registry.get_job_ids()) == ([], [])
        assert shop.job(job_id).get_status() == JobStatus.FINISHED

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("no"),
            redis.ConnectionError("the function's own Redis is away"),
            sa.exc.OperationalError("SELECT 1", None, Exception("the function's own database is away")),
            SystemExit(3),
            GeneratorExit(),
            asyncio.CancelledError(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_whatever_one_raises_holds_up_neither_the_sync_nor_another(self, shop: Shop, error: BaseException) -> None:
        job_id = owe(shop, failing(shop, *[error] * 10))
        shop.desk.registry.on("user_add_org")(shop.keep)
        shop.happen(an_event("user_add_org", ["u1"], event_id="e2"))
        shop.work()
        assert [event.id for event in shop.called] == ["e1", "e2"]
        assert shop.desk.statuses().keys() == {"e1", "e2"}
        assert shop.job(job_id).number_of_retries == 1

    def test_one_that_a_forced_stop_breaks_off_is_given_back_uncharged(self, shop: Shop) -> None:
        def stop(event: Any, directory: Any) -> None:
            worker.stopping.set()
            raise SystemExit  # as RQ's handler of a second signal does

        job_id = owe(shop, stop, retries=0)
        worker = shop.worker()
        worker.turn()
        assert worker.claims.give_back() == 1
        assert (shop.job(job_id).get_status(), shop.job(job_id).number_of_retries) == (JobStatus.QUEUED, None)

    def test_ctrl_c_ends_the_worker(self, shop: Shop) -> None:
        job_id = owe(shop, failing(shop, KeyboardInterrupt()))
        worker = shop.worker()
        with pytest.raises(KeyboardInterrupt):
            worker.turn()
        assert worker.claims.give_back() == 1
        assert shop.job(job_id).number_of_retries is None

    def test_one_that_hangs_is_interrupted(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(jobworker, "JOB_TIMEOUT", 1)

        def hang(event: Any, directory: Any) -> None:
            threading.Event().wait(20)

        job_id = owe(shop, hang, retries=0)
        shop.work()
        assert shop.job(job_id).get_status() == JobStatus.FAILED
        assert "timeout" in shop.reason(job_id).lower()

    def test_a_function_that_is_no_longer_registered_is_named(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        JobWorker(["jobs"], shop.connection, shop.desk.store, Registry()).turn()
        assert shop.job(job_id).get_status() == JobStatus.FAILED
        assert f"registers {shop.keep.__module__}.{shop.keep.__qualname__}" in shop.reason(job_id)
        FailedJobRegistry(queue=shop.queue()).requeue(job_id)
        shop.work()
        assert len(shop.called) == 1

    @pytest.mark.parametrize("table", [tables.events, tables.changes], ids=lambda table: table.name)
    def test_what_it_was_for_may_be_forgotten(self, shop: Shop, table: sa.Table) -> None:
        on = shop.desk.registry.on if table is tables.events else shop.desk.registry.on_change
        on("user_modify_org" if table is tables.events else "user")(shop.keep)  # type: ignore[arg-type]
        shop.happen(an_event(users=["u1"]), given={U1: a_user()})
        job_id = jobs.job_id(shop.owed()[0]["id"])
        with shop.desk.store.writing() as connection:
            connection.execute(sa.delete(table))
        shop.work()
        assert shop.job(job_id).get_status() == JobStatus.FAILED
        assert f"see retention.{table.name}" in shop.reason(job_id)

    def test_one_whose_worker_was_killed_runs_again(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        kill(shop)
        shop.work()
        assert (len(shop.called), shop.owed()) == (1, [])
        assert shop.job(job_id).get_status() == JobStatus.FINISHED

    def test_a_taken_job_is_started_for_rq(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        shop.worker().claims.claim(1)
        assert StartedJobRegistry(queue=shop.queue()).get_job_ids() == [job_id]

    def test_one_that_ends_its_workers_is_given_up(self, shop: Shop) -> None:
        job_id = owe(shop, shop.keep)
        for _ in range(claims.MAX_LONE_DEATHS):
            kill(shop)
        shop.work()
        assert shop.called == []
        assert shop.owed()[0]["failed_at"] is not None
        assert "ended 5 workers" in shop.reason(job_id)


def note(job: Job, *_: object) -> None:
    """A callback that leaves a trace when it is called."""
    Path(job.meta["trace"]).touch()


class TestForeignJobs:
    """Whoever can write to Redis must not be able to have code run."""

    def test_a_foreign_function_is_refused_and_nothing_is_called(self, shop: Shop, tmp_path: Path) -> None:
        trace, back = tmp_path / "trace", Callback(note)
        shop.queue().enqueue_call(
            "os.mkdir",
            args=(str(trace),),
            job_id="foreign",
            meta={"trace": str(trace)},
            on_success=back,
            on_failure=back,
        )
        shop.work()
        assert not trace.exists()
        assert shop.job("foreign").get_status() == JobStatus.FAILED
        assert "os.mkdir" in shop.reason("foreign")

    @pytest.mark.parametrize("fails", [False, True])
    def test_callbacks_and_webhooks_in_a_users_job_are_never_called(
        self, shop: Shop, tmp_path: Path, fails: bool
    ) -> None:
        trace, asked = tmp_path / "trace", []

        class Listener(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()

        with HTTPServer(("127.0.0.1", 0), Listener) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            job_id = owe(shop, failing(shop, *[ValueError("no")] * fails), retries=0)
            url, callback = f"http://127.0.0.1:{server.server_port}/", f"{note.__module__}.{note.__qualname__}"
            hooks = [Webhook(url, "finished").to_dict(), Webhook(url, "failed").to_dict()]
            planted = {f"{kind}_callback_name": callback for kind in ("success", "failure", "stopped")}
            planted |= {"webhooks": json.dumps(hooks), "meta": json.dumps({"trace": str(trace)})}
            shop.connection.hset(f"rq:job:{job_id}", mapping=planted)
            shop.work()
            server.shutdown()
            thread.join()
        assert shop.job(job_id).get_status() == (JobStatus.FAILED if fails else JobStatus.FINISHED)
        assert (len(shop.called), trace.exists(), asked) == (1, False, [])

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"junk",
            b"[]",
            b'["workers.jobs.run",null,[1],{}]',
            b'["workers.jobs.run",null,["1",1],{}]',
            b'["workers.jobs.run",null,[1,2],{}]',
            b'["workers.batch.apply",null,[1,1],{}]',
            b'["os.getpid",null,[],{}]',
            b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        ],
    )
    def test_junk_fails_with_a_reason(self, shop: Shop, data: bytes) -> None:
        shop.queue().enqueue_call("os.getpid", job_id="junk")
        shop.connection.hset("rq:job:junk", "data", data)
        shop.work()
        assert shop.job("junk").get_status() == JobStatus.FAILED
        assert shop.reason("junk")
