"""A claimer's life: the lease it keeps, what it gives back, what it waits out, and what ends it."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence

import pytest
import redis
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, InternalError, OperationalError

from bridge.accept import Acceptor
from tests.servers import wait_until
from tests.workers.helpers import an_event
from workers import claimer as module
from workers import claims as claims_module
from workers.claimer import Claimer, away
from workers.claims import Claim, Claims

QUEUE = "user_add_org"


class Clerk(Claimer):
    """Does with its claims what a test says."""

    def __init__(self, connection: redis.Redis, do: Callable[["Clerk", Sequence[Claim]], object]) -> None:
        super().__init__([QUEUE], connection)
        self._do = do
        #: The ids that it claimed in each turn.
        self.taken: list[list[str]] = []

    def turn(self) -> bool:
        self.upkeep()
        claims, self.put_off_due = self.claims.claim(64)
        self.taken.append([claim.job_id for claim in claims])
        self._do(self, claims)
        return bool(claims)


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """A claimer that runs installs its own."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AWAY_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.02)


def accept(connection: redis.Redis, *event_ids: str) -> None:
    Acceptor(connection).accept([an_event(QUEUE, ["u1"], event_id=event_id) for event_id in event_ids])


def job(connection: redis.Redis, job_id: str = "e1") -> Job:
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


def queue(connection: redis.Redis) -> Queue:
    return Queue(QUEUE, connection=connection, serializer=JSONSerializer)


def finish(clerk: Clerk, claims: Sequence[Claim]) -> None:
    clerk.claims.finish(claims)
    clerk.stopping.set()


class TestLease:
    def test_it_is_renewed_while_a_turn_takes_long(self, connection: redis.Redis) -> None:
        def take_long(clerk: Clerk, claims: Sequence[Claim]) -> None:
            lease = f"bridge:lease:{clerk.name}"
            connection.delete(lease)
            wait_until(lambda: connection.exists(lease), 5, "the lease to be renewed")
            clerk.stopping.set()

        Clerk(connection, take_long).run()

    def test_a_turn_that_never_ends_ends_the_process(
        self, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else its lease would be renewed for ever, and what it holds never be taken back."""
        codes: list[int] = []
        monkeypatch.setattr(module, "TURN_SECONDS", 0.05)
        monkeypatch.setattr(os, "_exit", codes.append)

        def hang(clerk: Clerk, claims: Sequence[Claim]) -> None:
            wait_until(lambda: codes, 5, "the end of the process")
            clerk.stopping.set()

        Clerk(connection, hang).run()
        assert set(codes) == {module.HANGS}

    def test_it_takes_back_what_the_dead_held(self, connection: redis.Redis) -> None:
        accept(connection, "e1")
        Claims(connection, "dead", [QUEUE]).claim(1)
        connection.delete("bridge:lease:dead")
        connection.hset(claims_module.MISSING_KEY, "dead", 0)
        clerk = Clerk(connection, finish)
        clerk.run()
        assert clerk.taken == [["e1"]]


class TestLeaving:
    def test_told_to_stop_it_gives_back_what_it_holds_and_charges_nobody(self, connection: redis.Redis) -> None:
        accept(connection, "e1", "e2")
        clerk = Clerk(connection, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        clerk.run()
        assert clerk.taken == [["e1", "e2"]]
        assert queue(connection).get_job_ids() == ["e1", "e2"]
        assert {job(connection, one).get_status() for one in ("e1", "e2")} == {JobStatus.QUEUED}
        assert connection.hmget("rq:job:e1", "suspect", "lone_deaths") == [None, None]

    def test_it_leaves_neither_a_lease_nor_a_worker_behind(self, connection: redis.Redis) -> None:
        Clerk(connection, finish).run()
        assert connection.keys("bridge:lease:*") == []
        assert connection.smembers(claims_module.CLAIMERS_KEY) == set()
        assert Worker.all(connection=connection, serializer=JSONSerializer) == []


class TestFaults:
    @pytest.mark.parametrize(
        "error",
        [redis.ConnectionError("gone"), redis.TimeoutError("hangs"), OperationalError("SELECT 1", None, Exception())],
        ids=lambda error: type(error).__name__,
    )
    def test_after_an_unclear_error_it_takes_up_anew_what_it_held(
        self, connection: redis.Redis, error: Exception
    ) -> None:
        """It lives, so that nobody else takes it back."""
        accept(connection, "e1")

        def fail_once(clerk: Clerk, claims: Sequence[Claim]) -> None:
            if len(clerk.taken) == 1:
                raise error
            finish(clerk, claims)

        clerk = Clerk(connection, fail_once)
        clerk.run()
        assert clerk.taken == [["e1"], ["e1"]]
        assert job(connection).get_status() == JobStatus.FINISHED

    def test_any_other_fault_ends_it_and_it_gives_back_what_it_holds(self, connection: redis.Redis) -> None:
        accept(connection, "e1")

        def fail(clerk: Clerk, claims: Sequence[Claim]) -> None:
            if len(clerk.taken) > 1:
                clerk.stopping.set()
            raise IntegrityError("INSERT", None, Exception("a fault of ours"))

        with pytest.raises(IntegrityError):
            Clerk(connection, fail).run()
        assert queue(connection).get_job_ids() == ["e1"]

    def test_a_failed_job_is_let_go(self, connection: redis.Redis) -> None:
        accept(connection, "e1")
        clerk = Clerk(connection, lambda clerk, claims: clerk.fail(claims[0], "why"))
        clerk.turn()
        assert FailedJobRegistry(queue=queue(connection)).get_job_ids() == ["e1"]
        assert StartedJobRegistry(queue=queue(connection)).get_job_ids() == []
        assert clerk.claims.give_back() == 0


class PostgresError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (redis.ConnectionError(), True),
        (redis.ResponseError("OOM"), True),
        (OperationalError("SELECT 1", None, Exception("database is locked")), True),
        (InterfaceError("SELECT 1", None, Exception("connection closed")), True),
        *((OperationalError("SELECT 1", None, PostgresError(state)), True) for state in ("08006", "53300", "57P01")),
        *((OperationalError("SELECT 1", None, PostgresError(state)), True) for state in ("40P01", "55P03")),
        (InternalError("UPDATE", None, PostgresError("25006")), True),
        (InternalError("UPDATE", None, PostgresError("25P02")), False),
        (OperationalError("SELECT 1", None, PostgresError("22003")), False),
        (IntegrityError("INSERT", None, PostgresError("23505")), False),
        (DBAPIError("SELECT 1", None, Exception()), False),
        (ValueError(), False),
    ],
)
def test_what_passes_by_itself(error: Exception, passes: bool) -> None:
    assert away(error) is passes
