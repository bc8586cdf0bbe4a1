"""Claims as RQ's own tools see them, and what becomes of them when their worker dies."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import redis
from rq import Queue
from rq.job import Job, JobStatus
from rq.registry import (
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
    clean_registries,
)
from rq.serializers import JSONSerializer

from bridge import events, queues
from bridge.accept import Acceptor
from tests.servers import wait_until
from tests.workers.helpers import an_event
from workers import claims as module
from workers.claims import Claim, Claims

A, B, C = "user_add_org", "user_modify_org", "user_leave_org"


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def worker(connection: redis.Redis, name: str = "w1", names: Sequence[str] = (A, B, C)) -> Claims:
    return Claims(connection, name, names)


def waiting(connection: redis.Redis, queue: str, count: int, prefix: str = "") -> list[str]:
    """So many events that wait on a queue; their ids."""
    ids = [f"{prefix or queue}-{number}" for number in range(count)]
    accepted = [an_event(queue, ["u1"], event_id=event_id) for event_id in ids]
    assert Acceptor(connection).accept(accepted) == [True] * count
    return ids


def claim(claims: Claims, limit: int = 64) -> list[Claim]:
    return claims.claim(limit)[0]


def ids(found: Sequence[Claim]) -> list[str]:
    return [one.job_id for one in found]


def queue(connection: redis.Redis, name: str = A) -> Queue:
    return Queue(name, connection=connection, serializer=JSONSerializer)


def job(connection: redis.Redis, job_id: str) -> Job:
    return Job.fetch(job_id, connection=connection, serializer=JSONSerializer)


def die(connection: redis.Redis, name: str = "w1") -> None:
    """What is left of a killed worker once its lease has been missing for long enough."""
    connection.delete(f"bridge:lease:{name}")
    connection.hset(module.MISSING_KEY, name, 0)


class TestClaiming:
    def test_jobs_come_in_their_order_up_to_the_limit(self, connection: redis.Redis) -> None:
        known = waiting(connection, A, 5)
        claims = worker(connection)
        assert ids(claim(claims, 3)) == known[:3]
        assert ids(claim(claims, 3)) == known[3:]
        assert claims.claim(3) == ([], None)

    def test_a_claim_is_the_job_as_it_was_accepted(self, connection: redis.Redis) -> None:
        event = an_event(A, ["u1"])
        Acceptor(connection).accept([event])
        (found,) = claim(worker(connection))
        assert queues.decode(found.data) == event
        assert (found.queue, found.attempts) == (A, 0)
        assert found.life == connection.info("server")["run_id"]
        now, micros = connection.time()
        assert 0 <= now * 1_000_000 + micros - found.stamp < 10_000_000

    def test_queues_are_emptied_round_robin(self, connection: redis.Redis) -> None:
        """Events of one user meet in a batch though another queue is full."""
        waiting(connection, A, 100)
        few = [*waiting(connection, B, 3), *waiting(connection, C, 2)]
        assert set(few) < set(ids(claim(worker(connection), 12)))

    def test_no_queue_starves_when_a_batch_is_short(self, connection: redis.Redis) -> None:
        for name in (A, B, C):
            waiting(connection, name, 20)
        claims = worker(connection)
        served = [found.queue for _ in range(6) for found in claim(claims, 2)]
        assert set(served) == {A, B, C}

    @pytest.mark.parametrize("limit", [1, 3, 64])
    def test_a_suite_ticket_is_held_up_by_no_flood(self, connection: redis.Redis, limit: int) -> None:
        for name in events.queue_names():
            if name != "suite_ticket":
                waiting(connection, name, 10)
        claims = worker(connection, names=events.queue_names())
        for turn in range(5):
            claim(claims, limit)
            (ticket,) = waiting(connection, "suite_ticket", 1, f"ticket-{turn}")
            assert ids(claim(claims, limit))[0] == ticket

    def test_the_first_queue_goes_first_in_every_round(self, connection: redis.Redis) -> None:
        for name in (A, B, C):
            waiting(connection, name, 20)
        claims = worker(connection)
        assert [claim(claims, 2)[0].queue for _ in range(6)] == [A] * 6

    def test_only_its_own_queues(self, connection: redis.Redis) -> None:
        waiting(connection, A, 1)
        assert claim(worker(connection, names=[B])) == []

    def test_two_workers_share_what_waits(self, connection: redis.Redis) -> None:
        known = waiting(connection, A, 10)
        one, two = claim(worker(connection, "w1"), 6), claim(worker(connection, "w2"), 6)
        assert ids(one) + ids(two) == known

    def test_a_job_deleted_by_hand_is_passed_over(self, connection: redis.Redis) -> None:
        known = waiting(connection, A, 3)
        connection.delete(f"rq:job:{known[1]}")
        assert ids(claim(worker(connection))) == [known[0], known[2]]

    def test_a_claimed_event_is_a_repeat(self, connection: redis.Redis) -> None:
        event = an_event(A)
        acceptor = Acceptor(connection)
        acceptor.accept([event])
        claim(worker(connection))
        assert acceptor.accept([event], again=True) == [False]


def of_corp(connection: redis.Redis, corp: str, count: int, name: str = A) -> list[str]:
    """So many events of one corp that wait on a queue; their ids."""
    known = [f"{corp}-{number}" for number in range(count)]
    Acceptor(connection).accept([an_event(name, ["u1"], event_id=event_id, corp=corp) for event_id in known])
    return known


def lanes(connection: redis.Redis) -> set[bytes]:
    return set(connection.scan_iter("bridge:lane*"))


class TestShares:
    def test_a_noisy_corp_holds_up_no_other(self, connection: redis.Redis) -> None:
        noisy = of_corp(connection, "noisy", 500)
        quiet = [*of_corp(connection, "a", 2), *of_corp(connection, "b", 3), *of_corp(connection, "c", 1)]
        found = ids(claim(worker(connection), 12))
        assert set(quiet) < set(found)
        assert [one for one in found if one in noisy] == noisy[:6]

    def test_no_corp_has_more_than_its_share(self, connection: redis.Redis) -> None:
        """Whoever comes next waits for what was claimed; other queues do not add to the share."""
        noisy = [*of_corp(connection, "noisy", 100), *of_corp(connection, "noisy", 100, B)]
        known = noisy[:100]
        claims = Claims(connection, "w1", (A, B, C), share=5)
        assert len(ids(claim(claims))) == 5
        quiet = of_corp(connection, "a", 3)
        found = ids(claim(claims))
        assert set(quiet) < set(found) and len(found) == 8
        assert sum(one in known for one in found) <= 5

    def test_the_jobs_of_each_corp_keep_their_order(self, connection: redis.Redis) -> None:
        known = {corp: of_corp(connection, corp, 40) for corp in ("a", "b", "c")}
        found = [one for _ in range(10) for one in ids(claim(worker(connection), 12))]
        assert len(found) == 120
        assert {corp: [one for one in found if one in of] for corp, of in known.items()} == known
        assert lanes(connection) == set()

    def test_what_is_given_back_goes_first_again(self, connection: redis.Redis) -> None:
        known = {corp: of_corp(connection, corp, 20) for corp in ("a", "b")}
        claims = worker(connection)
        claim(claims, 10)
        assert claims.give_back() == 10
        found = ids(claim(worker(connection, "w2"), 40))
        assert {corp: [one for one in found if one in of] for corp, of in known.items()} == known
        assert lanes(connection) == set()

    def test_what_was_put_off_has_its_turn(self, connection: redis.Redis) -> None:
        of_corp(connection, "a", 1)
        claims = worker(connection)
        claims.put_off(claim(claims)[0], 0, 1)
        of_corp(connection, "noisy", 100)
        of_corp(connection, "b", 1)
        wait_until(lambda: connection.zcount("rq:scheduled:user_add_org", "-inf", connection.time()[0]))
        assert {"a-0", "b-0"} < set(ids(claim(claims, 6)))

    def test_a_job_without_a_lane_is_not_forgotten(self, connection: redis.Redis) -> None:
        """One that somebody requeued by hand: RQ knows of no lanes."""
        (lone,) = of_corp(connection, "a", 1)
        claims = worker(connection)
        (held,) = claim(claims)
        claims.put_off(held, 3600, 1)
        of_corp(connection, "b", 1)
        ScheduledJobRegistry(queue=queue(connection)).remove(lone)
        queue(connection)._enqueue_job(job(connection, lone))
        of_corp(connection, "c", 30)
        of_corp(connection, "d", 30)
        assert lone in ids(claim(claims, 4))

    def test_what_was_deleted_by_hand_takes_nobodys_turn(self, connection: redis.Redis) -> None:
        known = {corp: of_corp(connection, corp, 10) for corp in ("a", "b", "c")}
        for one in known["b"]:
            job(connection, one).delete()
        assert set(ids(claim(worker(connection), 64))) == {*known["a"], *known["c"]}
        assert lanes(connection) == set()

    def test_a_queue_that_was_emptied_by_hand_leaves_no_lanes(self, connection: redis.Redis) -> None:
        of_corp(connection, "a", 10)
        of_corp(connection, "b", 10)
        queue(connection).empty()
        claims = worker(connection)
        assert claim(claims) == []
        assert lanes(connection) == set()
        of_corp(connection, "d", 1)
        assert ids(claim(claims)) == ["d-0"]


class TestSeenByRq:
    def test_a_claimed_job_is_started(self, connection: redis.Redis) -> None:
        (known,) = waiting(connection, A, 1)
        claim(worker(connection))
        seen = job(connection, known)
        assert (seen.get_status(), seen.worker_name, seen.origin) == (JobStatus.STARTED, "w1", A)
        assert seen.started_at is not None
        assert StartedJobRegistry(queue=queue(connection)).get_job_ids() == [known]
        assert queue(connection).get_job_ids() == []

    @pytest.mark.parametrize("years", [0, 10])
    def test_stock_maintenance_leaves_it_alone(self, connection: redis.Redis, years: int) -> None:
        (known,) = waiting(connection, A, 1)
        claims = worker(connection)
        found = claim(claims)
        StartedJobRegistry(queue=queue(connection)).cleanup(timestamp=time.time() + years * 365 * 86400)
        clean_registries(queue(connection))
        assert job(connection, known).get_status() == JobStatus.STARTED
        assert FailedJobRegistry(queue=queue(connection)).get_job_ids() == []
        claims.finish(found)
        assert FinishedJobRegistry(queue=queue(connection)).get_job_ids() == [known]

    def test_rq_info_shows_it_and_leaves_it_alone(self, connection: redis.Redis, redis_url: str) -> None:
        queues.show_queues(connection)
        waiting(connection, A, 3)
        claims = worker(connection)
        held = claim(claims, 2)
        connection.hset(f"rq:job:{held[0].job_id}", "timeout", 1)
        command = [sys.executable, "-m", "rq.cli", "info", "-u", redis_url, "-R", A]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert told.returncode == 0, told.stderr
        assert A in told.stdout
        assert {job(connection, one.job_id).get_status() for one in held} == {JobStatus.STARTED}
        claims.finish(held)
        assert FinishedJobRegistry(queue=queue(connection)).count == 2

    def test_a_finished_job(self, connection: redis.Redis) -> None:
        (known,) = waiting(connection, A, 1)
        claims = worker(connection)
        claims.finish(claim(claims))
        seen = job(connection, known)
        assert seen.get_status() == JobStatus.FINISHED
        assert seen.ended_at is not None
        assert seen.description == events.describe(an_event(A, ["u1"]))
        assert FinishedJobRegistry(queue=queue(connection)).get_job_ids() == [known]
        assert StartedJobRegistry(queue=queue(connection)).get_job_ids() == []
        assert 0 < connection.ttl(f"rq:job:{known}") <= queues.RESULT_TTL
        assert connection.hget("rq:worker:w1", "successful_job_count") == b"1"

    def test_a_finished_job_is_in_no_other_registry(self, connection: redis.Redis) -> None:
        (known,) = waiting(connection, A, 1)
        claims = worker(connection)
        found = claim(claims)
        others = [kind(queue=queue(connection)) for kind in (FailedJobRegistry, ScheduledJobRegistry)]
        for registry in others:
            connection.zadd(registry.key, {known: time.time() + 600})
        claims.finish(found)
        assert [connection.zcard(registry.key) for registry in others] == [0, 0]

    def test_a_job_that_was_put_off(self, connection: redis.Redis) -> None:
        (known,) = waiting(connection, A, 1)
        claims = worker(connection)
        claims.put_off(claim(claims)[0], 30.5, 4)
        assert job(connection, known).get_status() == JobStatus.SCHEDULED
        registry = ScheduledJobRegistry(queue=queue(connection))
        assert registry.get_job_ids() == [known]
        assert 25 < registry.get_scheduled_time(known).timestamp() - time.time() < 35
        found, soonest = claims.claim(10)
        assert found == []
        assert soonest is not None
        assert 25 < soonest <= 31

    def test_it_comes_when_it_is_due_and_tells_its_attempts(self, connection: redis.Redis) -> None:
        (known,) = waiting(connection, A, 1)
        claims = worker(connection)
        claims.put_off(claim(claims)[0], 0, 4)
        (found,) = claim(claims)
        assert (found.job_id, found.attempts) == (known, 4)
        assert ScheduledJobRegistry(queue=queue(connection)).get_job_ids() == []
        assert job(connection, known).get_status() == JobStatus.STARTED

    def test_what_is_given_back_is_queued_in_its_old_order(self, connection: redis.Redis) -> None:
        known = waiting(connection, A, 5)
        claims = worker(connection)
        claim(claims, 3)
        assert claims.give_back() == 3
        assert queue(connection).get_job_ids() == known
        assert {job(connection, one).get_status() for one in known} == {JobStatus.QUEUED}
        assert StartedJobRegistry(queue=queue(connection)).get_job_ids() == []
        assert claims.give_back() == 0


class TestSweeping:
    def test_what_the_dead_held_comes_back_in_its_order_before_what_waits(self, connection: redis.Redis) -> None:
        known = waiting(connection, A, 5)
        claim(worker(connection, "w1"), 3)
        die(connection, "w1")
        assert worker(connection, "w2").sweep() == 3
        assert queue(connection).get_job_ids() == known
        assert {job(connection, one).get_status() for one in known} == {JobStatus.QUEUED}
        assert StartedJobRegistry(queue=queue(connection)).get_job_ids() == []
        assert connection.smembers(module.CLAIMERS_KEY) == set()

    def test_the_living_keep_theirs(self, connection: redis.Redis) -> None:
        waiting(connection, A, 2)
        claims = worker(connection, "w1")
        held = claim(claims)
        assert worker(connection, "w2").sweep() == 0
        claims.finish(held)
        assert FinishedJobRegistry(queue=queue(connection)).count == 2

    def test_a_lease_that_is_missing_for_a_moment_only_is_no_death(self, connection: redis.Redis) -> None:
        """When Redis comes back, workers that live renew theirs first."""
        waiting(connection, A, 1)
        claims, other = worker(connection, "w1"), worker(connection, "w2")
        claim(claims)
        connection.delete("bridge:lease:w1")
        assert other.sweep() == 0
        claims.renew()
        assert other.sweep() == 0
        assert connection.hlen(module.MISSING_KEY) == 0

    def test_a_lease_is_short_and_renewed(self, connection: redis.Redis) -> None:
        claims = worker(connection)
        claim(claims)
        longest = round(module.LEASE_SECONDS * 1000)
        assert 0 < connection.pttl("bridge:lease:w1") <= longest
        connection.pexpire("bridge:lease:w1", 50)
        claims.renew()
        assert longest / 2 < connection.pttl("bridge:lease:w1") <= longest
        assert module.RENEW_SECONDS * 2 < module.LEASE_SECONDS

    def test_a_worker_that_left_is_forgotten(self, connection: redis.Redis) -> None:
        claims = worker(connection)
        claim(claims)
        claims.release()
        assert connection.smembers(module.CLAIMERS_KEY) == set()
        assert not connection.exists("bridge:lease:w1")

    def test_whoever_was_taken_for_dead_can_spoil_nothing(self, connection: redis.Redis) -> None:
        """It wakes after its lease ran out, and another worker has its jobs."""
        waiting(connection, A, 3)
        late, heir = worker(connection, "w1"), worker(connection, "w2")
        held = claim(late)
        die(connection, "w1")
        heir.sweep()
        inherited = [found for _ in held for found in claim(heir)]
        late.finish(held[:1])
        late.put_off(held[1], 60, 9)
        assert late.give_back() == 0
        started = StartedJobRegistry(queue=queue(connection)).get_job_ids()
        assert sorted(started) == sorted(ids(held)) == sorted(ids(inherited))
        seen = [job(connection, one.job_id) for one in held]
        assert {(one.worker_name, one.get_status()) for one in seen} == {("w2", JobStatus.STARTED)}
        assert FinishedJobRegistry(queue=queue(connection)).count == 0
        heir.finish(inherited)
        assert FinishedJobRegistry(queue=queue(connection)).count == 3

    def test_a_job_deleted_while_it_was_held_does_not_come_back(self, connection: redis.Redis) -> None:
        known = waiting(connection, A, 2)
        claim(worker(connection, "w1"))
        job(connection, known[0]).delete()
        die(connection, "w1")
        worker(connection, "w2").sweep()
        assert queue(connection).get_job_ids() == known[1:]
        assert not connection.exists(f"rq:job:{known[0]}")


class TestSuspects:
    """A job that ends its worker must fall alone, and take no neighbour with it."""

    def suspects(self, connection: redis.Redis, name: str, count: int) -> list[str]:
        known = waiting(connection, name, count)
        claim(worker(connection, "dead", [name]))
        die(connection, "dead")
        assert worker(connection, "sweeper", [name]).sweep() == count
        return known

    def test_what_the_dead_held_is_taken_up_one_by_one(self, connection: redis.Redis) -> None:
        known = self.suspects(connection, A, 3)
        fresh = waiting(connection, A, 2, "fresh")
        claims = worker(connection)
        assert [ids(claim(claims)) for _ in range(4)] == [[known[0]], [known[1]], [known[2]], fresh]

    def test_a_suspect_joins_no_claim_that_holds_something(self, connection: redis.Redis) -> None:
        (known,) = self.suspects(connection, B, 1)
        fresh = waiting(connection, A, 1)
        claims = worker(connection, names=[A, B])
        claims.claim(0)  # the next one does not look for suspects first
        assert [ids(claim(claims)) for _ in range(2)] == [fresh, [known]]

    def test_suspects_hold_up_no_other_queue(self, connection: redis.Redis) -> None:
        known = self.suspects(connection, B, 4)
        fresh = waiting(connection, A, 1)
        claims = worker(connection, names=[A, B])
        served = [ids(claim(claims)) for _ in range(2)]
        assert sorted(served) == sorted([[known[0]], fresh])

    def test_only_a_death_alone_counts_against_a_job(self, connection: redis.Redis) -> None:
        known = self.suspects(connection, A, 2)
        for deaths in range(3):
            (found,) = claim(worker(connection, f"w{deaths}"))
            assert (found.job_id, found.lone_deaths) == (known[0], deaths)
            die(connection, f"w{deaths}")
            worker(connection, "sweeper").sweep()
        assert connection.hget(f"rq:job:{known[1]}", "lone_deaths") is None

    def test_a_job_that_was_finished_is_cleared(self, connection: redis.Redis) -> None:
        (known,) = self.suspects(connection, A, 1)
        claims = worker(connection)
        claims.finish(claim(claims))
        assert connection.hmget(f"rq:job:{known}", "suspect", "lone_deaths") == [None, None]

    def test_giving_back_charges_nobody(self, connection: redis.Redis) -> None:
        (known,) = waiting(connection, A, 1)
        claims = worker(connection)
        claim(claims)
        claims.give_back()
        assert connection.hmget(f"rq:job:{known}", "suspect", "lone_deaths") == [None, None]

    def test_a_suspect_is_served_though_another_queue_never_empties(self, connection: redis.Redis) -> None:
        (known,) = self.suspects(connection, B, 1)
        behind = waiting(connection, B, 1, "behind")
        claims = worker(connection)
        served: list[str] = []
        for turn in range(12):
            waiting(connection, A, 2, f"flow-{turn}")
            served += ids(claim(claims))
        assert {known, *behind} <= set(served)


class TestWaking:
    def test_an_accepted_event_ends_the_wait(self, connection: redis.Redis) -> None:
        claims = worker(connection)
        claim(claims)
        accepting = threading.Timer(0.1, waiting, (connection, B, 1))
        accepting.start()
        begun = time.monotonic()
        claims.wait(20)
        accepting.join()
        assert time.monotonic() - begun < 5
        assert len(claim(claims)) == 1

    def test_one_on_a_queue_of_others_does_not(self, connection: redis.Redis) -> None:
        claims = worker(connection, names=[A])
        claim(claims)
        waiting(connection, B, 1)
        begun = time.monotonic()
        claims.wait(0.2)
        assert time.monotonic() - begun >= 0.15

    def test_what_was_taken_keeps_nobody_awake(self, connection: redis.Redis) -> None:
        waiting(connection, A, 3)
        claims = worker(connection)
        claim(claims)
        claim(claims)
        begun = time.monotonic()
        claims.wait(0.2)
        assert time.monotonic() - begun >= 0.15

    def test_what_is_given_back_wakes_others(self, connection: redis.Redis) -> None:
        waiting(connection, A, 1)
        one, two = worker(connection, "w1"), worker(connection, "w2")
        claim(one)
        claim(two)
        one.give_back()
        begun = time.monotonic()
        two.wait(20)
        assert time.monotonic() - begun < 5
