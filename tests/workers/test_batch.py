"""The batch worker on real parts: what becomes of events, of their jobs in RQ, and of claims of the dead."""

import json
import random
import signal
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import sqlalchemy as sa
from rq import Callback, Queue, Worker
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, FinishedJobRegistry, ScheduledJobRegistry
from rq.serializers import JSONSerializer

from bridge import events, messages, queues
from bridge.accept import Acceptor
from bridge.events import Entity, Event
from ops import compose
from simulator.model import Membership
from tests.installation import AES_KEY, CORP, Installation, installed
from tests.servers import flush, wait_until
from tests.truth import differences
from tests.workers.helpers import an_event, chain_breaks
from workers import batch, claimer, claims
from workers.fold import Outcome, Waiting
from workers.moment import Moment
from workers.store import reads, tables
from workers.store.reads import Due, Taken

USER_GET = "/topapi/v2/user/get"


@pytest.fixture
def place(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    """An installation of ten people."""
    with installed(redis_url, datastore_url, tmp_path, users=10) as installation:
        yield installation


@pytest.fixture
def one_place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """The same on SQLite alone, for what the datastore has no part in."""
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=10) as installation:
        yield installation


def people(place: Installation) -> list[str]:
    return [row["userid"] for row in place.simulator.truth("acme")["users"]]


def accept(place: Installation, *happened: Event) -> list[str]:
    """The events' ids, accepted just now."""
    assert all(Acceptor(place.parts.connection).accept(happened))
    return [event.id for event in happened]


def tell(place: Installation, made: Sequence[Mapping[str, Any]]) -> None:
    """Hand over the simulator's callbacks as the receiver would."""
    for row in made:
        message = json.dumps(row["payload"]).encode()
        Acceptor(place.parts.connection).accept(messages.parse(message, "acme", CORP).events)


def job(place: Installation, event_id: str) -> Job:
    return Job.fetch(events.job_id(event_id), connection=place.parts.connection, serializer=JSONSerializer)


def queue(place: Installation, name: str = "user_modify_org") -> Queue:
    return Queue(name, connection=place.parts.connection, serializer=JSONSerializer)


def statuses(place: Installation) -> dict[str, str]:
    return {row["id"]: row["status"] for row in place.rows(tables.events)}


def error(place: Installation, event_id: str) -> str:
    return next(row["error"] or "" for row in place.rows(tables.events) if row["id"] == event_id)


def calls(place: Installation, path: str = USER_GET) -> int:
    made: int = place.simulator.calls.as_dict()["calls"].get(path, 0)
    return made


def due_now(place: Installation, event_id: str, name: str = "user_modify_org") -> None:
    """What was put off need not wait."""
    assert place.parts.connection.zadd(f"rq:scheduled:{name}", {events.job_id(event_id): 1}, xx=True, ch=True)


def forbid(place: Installation, *names: str) -> None:
    """Take permissions from the app."""
    access = place.simulator.app("acme").access
    access.permissions = access.permissions - set(names)


def permit(place: Installation, *names: str) -> None:
    access = place.simulator.app("acme").access
    access.permissions = access.permissions | set(names)


def noted(place: Installation, *userids: str) -> None:
    """Reads that are due, though no event waits for them."""
    with place.parts.store.writing() as connection:
        reads.schedule(connection, [Due(Entity(CORP, "user", userid), 0, "mark") for userid in userids])


def known(place: Installation) -> set[str]:
    return {row["userid"] for row in place.rows(tables.users)}


class TestApplying:
    def test_an_event_is_applied_and_its_job_finished(self, place: Installation) -> None:
        userid = people(place)[0]
        (event_id,) = accept(place, an_event(users=[userid]))
        assert place.worker.turn()
        assert statuses(place) == {event_id: "applied"}
        assert [row["userid"] for row in place.rows(tables.users)] == [userid]
        assert job(place, event_id).get_status() == JobStatus.FINISHED
        assert FinishedJobRegistry(queue=queue(place)).get_job_ids() == [event_id]

    def test_ten_events_of_one_user_cost_one_call(self, one_place: Installation) -> None:
        userid = people(one_place)[0]
        known = accept(one_place, *(an_event(users=[userid]) for _ in range(10)))
        one_place.worker.turn()
        assert calls(one_place) == 1
        assert statuses(one_place) == {known[0]: "applied"} | dict.fromkeys(known[1:], "folded")
        assert FinishedJobRegistry(queue=queue(one_place)).count == 10

    def test_events_go_before_reads_that_are_due(self, one_place: Installation) -> None:
        named, due = people(one_place)[:2]
        noted(one_place, due)
        one_place.worker.wait()  # it sees what is due
        accept(one_place, an_event(users=[named]))
        one_place.worker.turn()
        assert due not in known(one_place)
        one_place.worker.turn()
        assert due in known(one_place)

    def test_but_not_for_long(self, one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beside full batches that never end, too: a few at once, and no pause while there are more."""
        monkeypatch.setattr(batch, "BESIDE", 2)
        named, *due = people(one_place)[:6]
        noted(one_place, *due)
        for _ in range(3):
            accept(one_place, *(an_event(users=[named]) for _ in range(batch.BATCH)))
            one_place.worker.turn()
        assert set(due) <= known(one_place)

    def test_events_of_several_types_meet_in_a_batch(self, one_place: Installation) -> None:
        userid = people(one_place)[0]
        types = ("user_add_org", "user_modify_org", "org_admin_add", "label_user_change")
        accept(one_place, *(an_event(type, [userid]) for type in types))
        one_place.worker.turn()
        assert calls(one_place) == 1

    def test_an_event_that_waited_while_its_user_was_read_costs_no_call(self, one_place: Installation) -> None:
        first, *others = people(one_place)[:3]
        accept(one_place, an_event("label_user_change", [first]))
        accept(one_place, *(an_event("user_modify_org", [userid]) for userid in others))
        late = an_event("user_add_org", [first], event_id="late")
        accept(one_place, late)
        only = compose.sync_worker(one_place.parts, ["label_user_change"])
        only.turn()
        before = calls(one_place)
        compose.sync_worker(one_place.parts, ["user_add_org"]).turn()
        assert (calls(one_place), statuses(one_place)["late"]) == (before, "folded")

    def test_what_was_committed_before_a_crash_is_not_done_again(self, place: Installation) -> None:
        """The rows are committed, and the worker dies before it can tell Redis."""
        (event_id,) = accept(place, event := an_event(users=people(place)[:1]))
        stamp, life = place.parts.connection.hmget(f"rq:job:{event_id}", "stamp", "life")
        place.parts.folder.apply([Waiting(event, Moment(int(stamp), life.decode()))])
        before = place.rows(tables.events), place.rows(tables.users), calls(place)
        place.worker.turn()
        assert job(place, event_id).get_status() == JobStatus.FINISHED
        assert before == (place.rows(tables.events), place.rows(tables.users), calls(place))

    def test_redis_is_told_only_after_the_commit(
        self, one_place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        real, seen = one_place.parts.folder.apply, []

        def apply(batch: Sequence[Waiting], taken: Sequence[Taken]) -> Outcome:
            outcome = real(batch, taken)
            seen.append((statuses(one_place), job(one_place, event_id).get_status()))
            return outcome

        monkeypatch.setattr(one_place.parts.folder, "apply", apply)
        one_place.worker.turn()
        assert seen == [({event_id: "applied"}, JobStatus.STARTED)]
        assert job(one_place, event_id).get_status() == JobStatus.FINISHED

    @pytest.mark.parametrize("begun", [False, True])
    def test_a_worker_shows_itself_again_when_redis_was_emptied(
        self, one_place: Installation, redis_url: str, monkeypatch: pytest.MonkeyPatch, begun: bool
    ) -> None:
        """`begun`: what counts its jobs was there first."""
        worker, connection = one_place.worker, one_place.parts.connection
        worker.bootstrap(logging_level="WARNING")
        assert len(Worker.all(connection=connection)) == 1
        flush(redis_url)
        if begun:
            worker.increment_failed_job_count()
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        monkeypatch.setattr(claimer, "HEARTBEAT_SECONDS", 0.0)
        worker.turn()
        assert statuses(one_place) == {event_id: "applied"}
        (seen,) = Worker.all(connection=connection, serializer=JSONSerializer)
        assert (seen.name, seen.queue_names()) == (worker.name, list(events.queue_names()))
        assert (seen.hostname, seen.pid) == (worker.hostname, worker.pid)
        assert connection.ttl(seen.key) > 0
        worker.teardown()
        assert Worker.all(connection=connection) == []

    def test_claims_whose_answer_was_lost_are_taken_up_by_the_next_turn(self, one_place: Installation) -> None:
        """Redis claimed, the connection broke, and the client asked once more by itself."""
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        one_place.worker.claims.claim(1)
        assert one_place.worker.turn()
        assert statuses(one_place) == {event_id: "applied"}

    def test_nothing_to_do_is_nothing(self, one_place: Installation) -> None:
        assert not one_place.worker.turn()

    def test_what_names_nothing_is_ignored_and_finished(self, one_place: Installation) -> None:
        known = accept(one_place, an_event("chat_update_title"), an_event("user_modify_org"))
        one_place.worker.turn()
        assert statuses(one_place) == dict.fromkeys(known, "ignored")
        assert FinishedJobRegistry(queue=queue(one_place, "other")).count == 1


class TestFaults:
    def test_what_is_permanent_fails_with_its_reason_and_is_applied_when_requeued(self, place: Installation) -> None:
        forbid(place, "qyapi_get_member")
        (event_id,) = accept(place, an_event(users=people(place)[:1]))
        place.worker.turn()
        assert statuses(place) == {event_id: "failed"}
        assert "60011" in error(place, event_id)
        assert "give the app this API permission" in error(place, event_id)
        registry = FailedJobRegistry(queue=queue(place))
        assert registry.get_job_ids() == [event_id]
        failed = job(place, event_id)
        assert failed.get_status() == JobStatus.FAILED
        result = failed.latest_result()
        assert result is not None
        assert result.exc_string == error(place, event_id)
        permit(place, "qyapi_get_member")
        registry.requeue(event_id)
        place.worker.turn()
        assert statuses(place) == {event_id: "applied"}
        assert error(place, event_id) == ""
        assert job(place, event_id).get_status() == JobStatus.FINISHED
        assert (registry.get_job_ids(), FinishedJobRegistry(queue=queue(place)).count) == ([], 1)

    def test_a_permanent_fault_takes_no_neighbour_with_it(self, one_place: Installation) -> None:
        forbid(one_place, "qyapi_get_member")
        dept = one_place.simulator.truth("acme")["departments"][1]["dept_id"]
        bad, good = accept(
            one_place, an_event(users=people(one_place)[:1]), an_event("org_dept_modify", departments=[dept])
        )
        one_place.worker.turn()
        assert statuses(one_place) == {bad: "failed", good: "applied"}

    def test_what_may_pass_is_put_off_and_tried_again(self, place: Installation) -> None:
        (before,) = accept(place, an_event(users=people(place)[1:2]))
        place.worker.turn()  # now there is a token
        place.simulator.faults.set({"error_rate": 1.0})
        (event_id,) = accept(place, an_event(users=people(place)[:1]))
        place.worker.turn()
        assert ScheduledJobRegistry(queue=queue(place)).get_job_ids() == [event_id]
        assert (job(place, event_id).number_of_retries, statuses(place)) == (1, {before: "applied"})
        due_now(place, event_id)
        place.worker.turn()
        assert job(place, event_id).number_of_retries == 2
        place.simulator.faults.set({"error_rate": 0.0})
        due_now(place, event_id)
        place.worker.turn()
        assert statuses(place) == {before: "applied", event_id: "applied"}

    def test_what_never_passes_is_given_up_in_the_end(self, one_place: Installation) -> None:
        one_place.simulator.faults.set({"error_rate": 1.0})
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        one_place.parts.connection.hset(f"rq:job:{event_id}", "number_of_retries", batch.MAX_ATTEMPTS - 1)
        one_place.worker.turn()
        assert statuses(one_place) == {event_id: "failed"}
        assert error(one_place, event_id).startswith(f"given up after {batch.MAX_ATTEMPTS} attempts: ")
        # Whoever requeues it by hand lets it begin anew.
        assert job(one_place, event_id).number_of_retries in (None, 0)

    @pytest.mark.parametrize("step", ["apply", "fail"])
    def test_a_datastore_that_is_away_costs_no_attempt_and_decides_nothing(
        self, one_place: Installation, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        """What Redis is told of an event is never more than the datastore knows."""

        def away(*_: object) -> Outcome:
            raise sa.exc.OperationalError("SELECT 1", None, Exception("away"))

        if step == "fail":
            forbid(one_place, "qyapi_get_member")
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        with monkeypatch.context() as moment:
            moment.setattr(one_place.parts.folder, step, away)
            with pytest.raises(sa.exc.OperationalError):
                one_place.worker.turn()
        assert (statuses(one_place), job(one_place, event_id).get_status()) == ({}, JobStatus.STARTED)
        assert one_place.worker.claims.give_back() == 1
        one_place.worker.turn()
        assert statuses(one_place) == {event_id: "failed" if step == "fail" else "applied"}
        assert one_place.parts.connection.hget(f"rq:job:{event_id}", "number_of_retries") is None

    def test_a_throttle_is_no_attempt(self, one_place: Installation) -> None:
        one_place.simulator.faults.set({"calls_per_second": 1})
        known = accept(one_place, *(an_event(users=[userid]) for userid in people(one_place)[:2]))
        one_place.worker.turn()
        (late,) = set(known) - statuses(one_place).keys()
        assert ScheduledJobRegistry(queue=queue(one_place)).get_job_ids() == [late]
        assert one_place.parts.connection.hget(f"rq:job:{late}", "number_of_retries") == b"0"
        one_place.simulator.faults.set({"calls_per_second": None})
        wait_until(lambda: one_place.worker.turn() and late in statuses(one_place), 10, "the throttled event")
        assert statuses(one_place)[late] == "applied"

    def test_an_answer_that_the_datastore_refuses_fails_alone(self, place: Installation) -> None:
        tenant = place.simulator.tenants[CORP]
        bad, *good = people(place)[:4]
        whole = tenant.users.rows[bad]
        tenant.put_user(replace(whole, departments=(Membership(whole.departments[0].dept_id, 2**63, False),)))
        known = accept(place, *(an_event(users=[userid], event_id=userid) for userid in [good[0], bad, *good[1:]]))
        place.worker.turn()
        assert statuses(place) == dict.fromkeys(good, "applied")
        assert ScheduledJobRegistry(queue=queue(place)).get_job_ids() == [bad]
        assert len(known) == 4
        tenant.put_user(whole)
        due_now(place, bad)
        place.worker.turn()
        assert statuses(place)[bad] == "applied"

    def test_an_id_that_the_datastore_refuses_fails_alone(self, place: Installation) -> None:
        """PostgreSQL indexes no text of many thousand characters."""
        rng = random.Random(1)
        endless = "".join(rng.choices(string.printable[:90], k=20_000))
        good, long_user, long_id = people(place)[0], an_event(users=[endless]), an_event(event_id=endless)
        accept(place, long_user, long_id, an_event(users=[good], event_id="good"))
        place.worker.turn()
        assert statuses(place)["good"] == "applied"

    def test_an_event_whose_own_row_is_refused_ends_no_worker(
        self, redis_url: str, postgresql_url: str, tmp_path: Path
    ) -> None:
        """PostgreSQL's text holds no NUL."""
        with installed(redis_url, postgresql_url, tmp_path) as place:
            (event_id,) = accept(place, an_event("a\0type", payload=msgspec.Raw(b"{}")))
            place.parts.connection.hset(f"rq:job:{event_id}", "number_of_retries", batch.MAX_ATTEMPTS - 1)
            place.worker.turn()
            failed = job(place, event_id)
            assert failed.get_status() == JobStatus.FAILED
            result = failed.latest_result()
            assert result is not None
            assert f"given up after {batch.MAX_ATTEMPTS} attempts" in str(result.exc_string)

    def test_a_job_that_was_deleted_by_hand_ends_no_worker(self, one_place: Installation) -> None:
        forbid(one_place, "qyapi_get_member")
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        one_place.simulator.faults.set({"latency_ms": 300})
        with ThreadPoolExecutor(1) as pool:
            turn = pool.submit(one_place.worker.turn)
            wait_until(lambda: job(one_place, event_id).get_status() == JobStatus.STARTED, 10, "the claim")
            job(one_place, event_id).delete()
            assert turn.result()
        assert FailedJobRegistry(queue=queue(one_place)).get_job_ids() == []

    def test_a_job_that_ended_five_workers_alone_is_given_up(self, place: Installation) -> None:
        known = accept(place, *(an_event(users=people(place)[:1]) for _ in range(2)))
        deadly = {"suspect": 1, "lone_deaths": claims.MAX_LONE_DEATHS}
        place.parts.connection.hset(f"rq:job:{known[0]}", mapping=deadly)
        place.worker.turn()
        place.worker.turn()
        assert statuses(place) == {known[0]: "failed", known[1]: "applied"}
        assert "ended 5 workers" in error(place, known[0])


def note(job: Job, *_: object) -> None:
    """A callback that leaves a trace when it is called."""
    Path(job.meta["trace"]).touch()


class TestForeignJobs:
    """Whoever can write to Redis must not be able to have code run."""

    def foreign(self, place: Installation, trace: Path) -> Job:
        return queue(place).enqueue_call(
            "os.mkdir",
            args=(str(trace),),
            job_id="foreign",
            meta={"trace": str(trace)},
            on_success=Callback(note),
            on_failure=Callback(note),
        )

    def test_a_foreign_function_is_refused_and_never_called(self, one_place: Installation, tmp_path: Path) -> None:
        trace = tmp_path / "trace"
        foreign = self.foreign(one_place, trace)
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        one_place.worker.turn()
        assert not trace.exists()
        assert foreign.get_status() == JobStatus.FAILED
        result = foreign.latest_result()
        assert result is not None
        assert "not an event's job" in str(result.exc_string)
        assert statuses(one_place) == {event_id: "applied"}

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_callback_on_an_event_is_never_called(self, one_place: Installation, tmp_path: Path, fails: bool) -> None:
        trace = tmp_path / "trace"
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        if fails:
            forbid(one_place, "qyapi_get_member")
        named = {
            f"{kind}_callback_name": f"{note.__module__}.{note.__qualname__}"
            for kind in ("success", "failure", "stopped")
        }
        meta = json.dumps({"trace": str(trace)})
        one_place.parts.connection.hset(f"rq:job:{event_id}", mapping=named | {"meta": meta})
        one_place.worker.turn()
        assert statuses(one_place) == {event_id: "failed" if fails else "applied"}
        assert not trace.exists()

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"junk",
            b"[]",
            b'["workers.batch.apply",null,[],{}]',
            b'["workers.batch.apply",null,[{"v":1}],{}]',
            b'["workers.batch.apply","os",[{}],{}]',
            "pickle",
        ],
    )
    def test_junk_fails_with_a_reason(self, one_place: Installation, data: Any) -> None:
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
        data = b"\x80\x04cos\nsystem\n(S'true'\ntR." if data == "pickle" else data
        one_place.parts.connection.hset(f"rq:job:{event_id}", "data", data)
        one_place.worker.turn()
        seen = job(one_place, event_id)
        assert seen.get_status() == JobStatus.FAILED
        result = seen.latest_result()
        assert result is not None
        assert result.exc_string

    def test_a_job_of_another_version_waits_for_the_program_that_knows_it(self, one_place: Installation) -> None:
        (event_id,) = accept(one_place, an_event(users=people(one_place)[:1], v=events.VERSION + 1))
        one_place.worker.turn()
        result = job(one_place, event_id).latest_result()
        assert result is not None
        assert f"version {events.VERSION + 1}" in str(result.exc_string)


def test_without_credentials_rows_have_their_keys_alone(redis_url: str, datastore_url: str, tmp_path: Path) -> None:
    app = {
        "name": "acme",
        "kind": "internal",
        "keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}],
        "owner_keys": [CORP],
        "corp_id": CORP,
    }
    with installed(redis_url, datastore_url, tmp_path, apps=[app]) as place:
        known = accept(
            place,
            an_event("user_add_org", ["u1"]),
            an_event("org_dept_create", departments=[7]),
            an_event("label_conf_add", roles=[3]),
        )
        place.work_off()
        assert statuses(place) == dict.fromkeys(known, "applied")
        assert place.simulator.calls.as_dict()["total"] == 0
        (user,), (department,) = place.rows(tables.users), place.rows(tables.departments)
        assert (user["userid"], user["name"], user["fetched_at"], user["deleted_at"]) == ("u1", None, None, None)
        assert (department["dept_id"], department["name"], department["fetched_at"]) == (7, None, None)
        (role,) = place.rows(tables.roles)
        assert (role["role_id"], role["name"], role["fetched_at"], role["deleted_at"]) == (3, None, None, None)
        accept(place, an_event("org_remove"))
        place.work_off()
        assert place.rows(tables.corps)[0]["status"] == "dissolved"


class TestStaleAnswers:
    def test_a_stale_answer_is_healed_by_the_echo_alone(self, one_place: Installation) -> None:
        userid = next(row["userid"] for row in one_place.simulator.truth("acme")["users"] if not row["admin"])
        accept(one_place, an_event(users=[userid]))
        one_place.work_off()
        one_place.simulator.faults.set({"lag_seconds": 0.5})
        tell(one_place, one_place.simulator.change("acme", "user_active_org", userid, deliver=False))
        tell(one_place, one_place.simulator.change("acme", "org_admin_add", userid, deliver=False))
        before = calls(one_place)
        one_place.worker.turn()
        stale = one_place.rows(tables.users)[0]["admin"]
        one_place.work_off()
        assert (stale, one_place.rows(tables.users)[0]["admin"]) == (False, True)
        assert calls(one_place) == before + 2

    def test_a_dissolution_that_comes_before_its_answer_is_healed_too(self, one_place: Installation) -> None:
        accept(one_place, an_event("org_change"), an_event(users=people(one_place)[:1]))
        one_place.work_off()
        made = one_place.simulator.change("acme", "org_remove", deliver=False)
        tenant = one_place.simulator.tenants[CORP]
        tenant.dissolved = False
        tell(one_place, made)
        one_place.worker.turn()
        assert "ignored" in statuses(one_place).values()
        tenant.dissolved = True
        one_place.work_off()
        assert one_place.rows(tables.corps)[0]["status"] == "dissolved"

    def test_an_org_remove_while_the_corp_stands_is_ignored(self, one_place: Installation) -> None:
        accept(one_place, an_event(users=people(one_place)[:1]))
        (event_id,) = accept(one_place, an_event("org_remove"))
        one_place.work_off()
        assert statuses(one_place)[event_id] == "ignored"
        assert "not dissolved" in error(one_place, event_id)
        assert one_place.rows(tables.users)[0]["deleted_at"] is None

    def test_two_workers_under_lag_repeats_and_disorder_end_true(self, place: Installation) -> None:
        rng = random.Random(7)
        accept(place, *(an_event(users=[userid]) for userid in people(place)), an_event("label_conf_add"))
        accept(
            place,
            *(
                an_event("org_dept_modify", departments=[row["dept_id"]])
                for row in place.simulator.truth("acme")["departments"]
            ),
        )
        place.work_off()
        assert differences(place) == []
        place.simulator.faults.set({"lag_seconds": 0.3, "error_rate": 0.02})
        workers = [place.worker, compose.sync_worker(place.parts, events.queue_names())]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(8):
                made = [row for _ in range(8) for row in place.simulator.change("acme", deliver=False)]
                rng.shuffle(made)
                tell(place, made + rng.sample(made, 2))
                list(pool.map(lambda worker: worker.turn(), workers))
        place.simulator.faults.set({"error_rate": 0.0})
        for key in place.parts.connection.keys("rq:scheduled:*"):
            name = key.decode().removeprefix("rq:scheduled:")
            for put_off in ScheduledJobRegistry(queue=queue(place, name)).get_job_ids():
                due_now(place, put_off, name)
        place.work_off()
        assert differences(place) == []
        assert set(statuses(place).values()) <= {"applied", "folded"}
        assert list(chain_breaks(place.rows(tables.changes))) == []


@contextmanager
def working(place: Installation) -> Iterator["subprocess.Popen[bytes]"]:
    """A worker process; killed at the end if it still lives."""
    command = [sys.executable, "-m", "ops", "work"]
    process = subprocess.Popen(command, env=place.environment(), cwd=place.folder, stdout=subprocess.PIPE)
    try:
        wait_until(lambda: Worker.all(connection=place.parts.connection), 20, "the worker")
        yield process
    finally:
        process.kill()
        process.communicate()


def started(place: Installation, event_id: str) -> bool:
    return job(place, event_id).get_status() == JobStatus.STARTED


class TestProcesses:
    def test_a_worker_shows_itself_works_and_leaves(self, one_place: Installation) -> None:
        connection = one_place.parts.connection
        with working(one_place) as process:
            (event_id,) = accept(one_place, an_event(users=people(one_place)[:1]))
            wait_until(lambda: statuses(one_place) == {event_id: "applied"}, 10, "the event")
            wait_until(lambda: job(one_place, event_id).get_status() == JobStatus.FINISHED, 10, "the job")
            (seen,) = Worker.all(connection=connection, serializer=JSONSerializer)
            assert seen.queue_names() == list(events.queue_names())
            assert seen.successful_job_count == 1
            assert connection.ttl(seen.key) > 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        assert Worker.all(connection=connection) == []
        assert connection.keys("bridge:lease:*") == []

    def test_told_to_stop_it_finishes_what_it_holds_and_takes_nothing_new(self, one_place: Installation) -> None:
        first, second = people(one_place)[:2]
        with working(one_place) as process:
            one_place.simulator.faults.set({"latency_ms": 700})
            (held,) = accept(one_place, an_event(users=[first]))
            wait_until(lambda: started(one_place, held), 10, "the claim")
            process.send_signal(signal.SIGTERM)
            (late,) = accept(one_place, an_event(users=[second]))
            assert process.wait(10) == 0
        assert statuses(one_place) == {held: "applied"}
        assert job(one_place, held).get_status() == JobStatus.FINISHED
        assert job(one_place, late).get_status() == JobStatus.QUEUED

    def test_what_a_killed_worker_held_is_done_by_another(self, place: Installation) -> None:
        connection = place.parts.connection
        accept(place, an_event("label_conf_add"))
        place.worker.turn()  # so that there is a token: whoever dies fetching one keeps others from it for a while
        with working(place) as process:
            place.simulator.faults.set({"latency_ms": 30_000})
            known = accept(place, *(an_event(users=[userid]) for userid in people(place)))
            wait_until(lambda: all(started(place, one) for one in known), 60, "the claims")
            process.kill()
            process.wait(10)
        place.simulator.faults.set({"latency_ms": 0})
        (name,) = {seen.name for seen in Worker.all(connection=connection)}
        lease = f"bridge:lease:{name}"
        place.worker.turn()
        assert {job(place, one).get_status() for one in known} == {JobStatus.STARTED}
        assert 0 < connection.ttl(lease) <= claims.LEASE_SECONDS
        # Time passes.
        connection.delete(lease)
        connection.hset(claims.MISSING_KEY, name, 0)
        heir = compose.sync_worker(place.parts, events.queue_names())
        wait_until(lambda: not heir.turn() and set(known) <= statuses(place).keys(), 20, "the heir")
        assert set(statuses(place).values()) == {"applied"}
        assert {job(place, one).get_status() for one in known} == {JobStatus.FINISHED}


def test_the_job_names_a_function_that_stock_workers_can_resolve(redis_url: str) -> None:
    """A stock worker on an event's queue fails the job, with a reason that tells what to do."""
    with redis.Redis.from_url(redis_url) as connection:
        Acceptor(connection).accept([an_event("user_add_org", ["u1"], event_id="e1")])
        stock = Queue("user_add_org", connection=connection, serializer=JSONSerializer)
        found = Job.fetch("e1", connection=connection, serializer=JSONSerializer)
        assert found.func_name == queues.EVENT_FUNCTION
        with pytest.raises(RuntimeError, match="dingbridge work"):
            found.func(*found.args)
        assert stock.job_ids == ["e1"]
