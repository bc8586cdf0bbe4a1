"""Upkeep: what Redis lost is enqueued again, what is past its time is forgotten, and one clock leads."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from rq import Queue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from bridge.config import RetentionConfig
from tests.installation import CORP
from tests.servers import flush, wait_until
from tests.workers.helpers import Desk, an_event, few_parameters
from workers import clock as module
from workers import jobs
from workers.clock import LEADER_KEY, Clock
from workers.jobs import Dispatcher, job_id
from workers.store import ledger, tables
from workers.store.draft import Change
from workers.store.ledger import Owed, Verdict

NOW = datetime.now(UTC)
FOR_EVER = RetentionConfig(events=0, changes=0)


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def a_clock(desk: Desk, connection: redis.Redis, retention: RetentionConfig = FOR_EVER) -> Clock:
    return Clock(connection, desk.store, Dispatcher(desk.store, connection), retention)


def owe(desk: Desk, *lanes: str) -> list[str]:
    """One job owed in each of these lanes; their ids."""
    with desk.store.writing() as tx:
        ledger.owe(tx, [Owed("m.f", "jobs", lane) for lane in lanes])
    return [job_id(row["id"]) for row in desk.rows(tables.outbox)][-len(lanes) :]


def dispatch(desk: Desk, connection: redis.Redis, *lanes: str) -> list[str]:
    """The same, enqueued, and long enough ago."""
    known = owe(desk, *lanes)
    Dispatcher(desk.store, connection).dispatch(lanes)
    age(desk, timedelta(seconds=module.GRACE_SECONDS + 1))
    return known


def age(desk: Desk, by: timedelta) -> None:
    with desk.store.writing() as tx:
        tx.execute(sa.update(tables.outbox).values(enqueued_at=datetime.now(UTC) - by))


def waiting(connection: redis.Redis) -> list[str]:
    return list(Queue("jobs", connection=connection, serializer=JSONSerializer).get_job_ids())


class TestOwedJobs:
    def test_what_an_emptied_redis_lost_is_enqueued_again_in_order(
        self, desk: Desk, connection: redis.Redis, redis_url: str
    ) -> None:
        known = dispatch(desk, connection, "a", "b", "a", "c")
        flush(redis_url)
        assert a_clock(desk, connection).sweep_outbox() == 4
        assert waiting(connection) == known
        assert a_clock(desk, connection).sweep_outbox() == 0
        assert waiting(connection) == known

    def test_what_was_never_enqueued_is_enqueued(self, desk: Desk, connection: redis.Redis) -> None:
        """Its worker died between the commit and the dispatch."""
        known = owe(desk, "a", "b")
        assert a_clock(desk, connection).sweep_outbox() == 2
        assert waiting(connection) == known

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED])
    def test_what_redis_still_has_is_left_alone(self, desk: Desk, connection: redis.Redis, status: JobStatus) -> None:
        (known,) = dispatch(desk, connection, "a")
        connection.delete("rq:queue:jobs")
        Job.fetch(known, connection=connection, serializer=JSONSerializer).set_status(status)
        assert a_clock(desk, connection).sweep_outbox() == 0
        assert waiting(connection) == []

    def test_what_was_committed_just_now_has_time_to_get_there(
        self, desk: Desk, connection: redis.Redis, redis_url: str
    ) -> None:
        dispatch(desk, connection, "a")
        age(desk, timedelta(seconds=module.GRACE_SECONDS - 5))
        flush(redis_url)
        assert a_clock(desk, connection).sweep_outbox() == 0

    def test_what_failed_for_good_is_left_to_people(self, desk: Desk, connection: redis.Redis, redis_url: str) -> None:
        (known,) = dispatch(desk, connection, "a")
        Job.fetch(known, connection=connection, serializer=JSONSerializer).set_status(JobStatus.FAILED)
        clock = a_clock(desk, connection)
        assert clock.sweep_outbox() == 0
        assert desk.row(tables.outbox)["failed_at"] is not None
        flush(redis_url)
        assert clock.sweep_outbox() == 0

    def test_more_of_it_than_a_statement_takes(
        self, desk: Desk, connection: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(jobs, "CHUNK", 2)
        known = dispatch(desk, connection, *"abcdefg")
        for failed in known[:3]:
            Job.fetch(failed, connection=connection, serializer=JSONSerializer).set_status(JobStatus.FAILED)
        connection.delete("rq:queue:jobs", *(f"rq:job:{lost}" for lost in known[3:]))
        with few_parameters(desk, 3):
            assert a_clock(desk, connection).sweep_outbox() == 4
        assert waiting(connection) == known[3:]
        assert [row["failed_at"] is None for row in desk.rows(tables.outbox)] == [False] * 3 + [True] * 4


def tell(desk: Desk, *ages: int) -> None:
    """An event and a change of each of these ages in days."""
    for days in ages:
        at = NOW - timedelta(days=days)
        happened = Verdict(an_event(event_id=f"e{days}"), round(at.timestamp() * 1_000_000), "applied")
        changed = Change(CORP, "user", f"u{days}", "create", None, {}, f"e{days}", False)
        with desk.store.writing() as tx:
            ledger.record(tx, [happened], at)
            ledger.log_changes(tx, [changed], at)


def left(desk: Desk) -> tuple[list[str], list[str]]:
    """What is still known, by age."""
    return (
        [row["id"] for row in desk.rows(tables.events)],
        [row["entity_id"] for row in desk.rows(tables.changes)],
    )


class TestForgetting:
    @pytest.mark.parametrize(
        ("events", "changes", "kept"),
        [
            (30, 0, (["e1", "e29"], ["u1", "u29", "u31", "u400"])),
            (0, 30, (["e1", "e29", "e31", "e400"], ["u1", "u29"])),
            (0, 0, (["e1", "e29", "e31", "e400"], ["u1", "u29", "u31", "u400"])),
        ],
    )
    def test_each_kind_has_its_time(
        self, desk: Desk, connection: redis.Redis, events: int, changes: int, kept: tuple[list[str], list[str]]
    ) -> None:
        tell(desk, 1, 29, 31, 400)
        count = a_clock(desk, connection, RetentionConfig(events=events, changes=changes)).prune()
        assert left(desk) == kept
        assert count == 8 - len(kept[0]) - len(kept[1])

    def test_what_is_said_of_a_finished_job_goes_with_its_event(self, desk: Desk, connection: redis.Redis) -> None:
        owe(desk, "old", "young")
        with desk.store.writing() as tx:
            for row, days in zip(tx.execute(sa.select(tables.outbox)).all(), (31, 29), strict=True):
                ledger.finish_jobs(tx, [row.id], NOW - timedelta(days=days))
        assert a_clock(desk, connection, RetentionConfig(events=30)).prune() == 1
        assert len(desk.rows(tables.finished_jobs)) == 1

    def test_what_a_job_is_owed_for_stays(self, desk: Desk, connection: redis.Redis) -> None:
        tell(desk, 1, 31, 32)
        seq = next(row["seq"] for row in desk.rows(tables.changes) if row["entity_id"] == "u31")
        with desk.store.writing() as tx:
            ledger.owe(tx, [Owed("m.f", "jobs", "a", "e31", seq)])
        a_clock(desk, connection, RetentionConfig(events=30, changes=30)).prune()
        assert left(desk) == (["e1", "e31"], ["u1", "u31"])

    def test_a_failed_job_is_forgotten_when_rq_forgets_it(self, desk: Desk, connection: redis.Redis) -> None:
        owe(desk, "old", "young", "alive")
        with desk.store.writing() as tx:
            for lane, days in (("old", 31), ("young", 29)):
                where = tables.outbox.c.lane == lane
                tx.execute(sa.update(tables.outbox).where(where).values(failed_at=NOW - timedelta(days=days)))
        assert a_clock(desk, connection).prune() == 1
        assert sorted(row["lane"] for row in desk.rows(tables.outbox)) == ["alive", "young"]

    def test_much_is_forgotten_bit_by_bit(
        self, desk: Desk, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "PRUNE_ROWS", 3)
        tell(desk, *range(31, 39))
        clock = a_clock(desk, connection, RetentionConfig(events=30))
        assert [clock.prune() for _ in range(4)] == [3, 3, 2, 0]


@pytest.mark.parametrize("fails", ["sweep_outbox", "prune", "task"])
@pytest.mark.parametrize("error", [redis.ConnectionError("away"), sa.exc.OperationalError("", None, Exception("no"))])
def test_what_fails_in_a_round_holds_up_nothing_else(
    desk: Desk, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch, fails: str, error: Exception
) -> None:
    done: list[str] = []

    def step(name: str) -> Callable[[], None]:
        def do() -> None:
            done.append(name)
            if name == fails:
                raise error

        return do

    clock = Clock(connection, desk.store, Dispatcher(desk.store, connection), FOR_EVER, step("task"), step("last"))
    for name in ("sweep_outbox", "prune"):
        monkeypatch.setattr(clock, name, step(name))
    clock.round()
    assert done == ["sweep_outbox", "prune", "task", "last"]


@contextmanager
def running(clock: Clock) -> Iterator[threading.Thread]:
    stopping = threading.Event()
    thread = threading.Thread(target=clock.run, args=(stopping,))
    thread.start()
    try:
        yield thread
    finally:
        stopping.set()
        thread.join(10)
    assert not thread.is_alive()


class TestLeading:
    def test_one_of_several_leads(self, desk: Desk, connection: redis.Redis) -> None:
        with running(a_clock(desk, connection)):
            wait_until(lambda: connection.get(LEADER_KEY), 10, "a leader")
            leader = connection.get(LEADER_KEY)
            assert 0 < connection.ttl(LEADER_KEY) <= module.LEADER_SECONDS
            owe(desk, "a")
            with running(a_clock(desk, connection)):
                pass
            assert connection.get(LEADER_KEY) == leader
            assert waiting(connection) == []

    def test_another_takes_over_when_the_leader_is_gone(self, desk: Desk, connection: redis.Redis) -> None:
        with running(a_clock(desk, connection)):
            wait_until(lambda: connection.get(LEADER_KEY), 10, "a leader")
        connection.delete(LEADER_KEY)  # as it is after LEADER_SECONDS
        (known,) = owe(desk, "a")
        with running(a_clock(desk, connection)):
            wait_until(lambda: waiting(connection) == [known], 10, "the new leader's round")

    def test_it_goes_on_when_what_was_away_comes_back(
        self, desk: Desk, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "ROUND_SECONDS", 0.02)
        tries: list[Any] = []

        class Unreliable(Dispatcher):
            def dispatch(self, lanes: Any) -> int:
                tries.append(lanes)
                if len(tries) == 1:
                    raise redis.ConnectionError("away")
                if len(tries) == 2:
                    raise sa.exc.OperationalError("SELECT 1", None, Exception("away"))
                return super().dispatch(lanes)

        (known,) = owe(desk, "a")
        with running(Clock(connection, desk.store, Unreliable(desk.store, connection), FOR_EVER)):
            wait_until(lambda: waiting(connection) == [known], 10, "the third try")
        assert len(tries) >= 3

    def test_it_goes_on_when_redis_cannot_tell_who_leads(
        self, desk: Desk, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "ROUND_SECONDS", 0.02)
        clock = a_clock(desk, connection)
        lead, tries = clock._lead, itertools.count()

        def unreliable(**call: Any) -> Any:
            if next(tries) == 0:
                raise redis.ConnectionError("away")
            return lead(**call)

        monkeypatch.setattr(clock, "_lead", unreliable)
        (known,) = owe(desk, "a")
        with running(clock):
            wait_until(lambda: waiting(connection) == [known], 10, "the second try")
