"""Table `reads`: what is due, who is at it, and what becomes of it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bridge.events import Entity
from tests.installation import CORP
from tests.workers.helpers import Desk, department, roles, user
from workers.store import reads, tables
from workers.store.reads import TAKEN_MICROSECONDS, Due, Priority, Taken

U1 = user("u1")


def schedule(desk: Desk, *wanted: Due) -> None:
    with desk.store.writing() as connection:
        reads.schedule(connection, wanted)


def take(desk: Desk, now: int, limit: int = 10, priority: Priority = Priority.COPY, **where: Any) -> list[Taken]:
    with desk.store.writing() as connection:
        return reads.take(connection, now, limit, priority, **where)


def finish(desk: Desk, taken: list[Taken]) -> None:
    with desk.store.writing() as connection:
        reads.finish(connection, taken)


def next_due(desk: Desk) -> int | None:
    with desk.store.reading() as connection:
        return reads.next_due(connection)


def names(taken: list[Taken]) -> list[str]:
    return [read.entity.id for read in taken]


@pytest.mark.parametrize("order", [(50, 90), (90, 50)])
@pytest.mark.parametrize("together", [True, False])
def test_of_two_due_times_the_later_wins(desk: Desk, order: tuple[int, int], together: bool) -> None:
    wanted = [Due(U1, at, f"cause {at}", f"event {at}") for at in order]
    if together:
        schedule(desk, *wanted)
    else:
        for due in wanted:
            schedule(desk, due)
    row = desk.row(tables.reads)
    assert (row["due_at"], row["cause"], row["event_id"]) == (90, "cause 90", "event 90")


@pytest.mark.parametrize("order", [(Priority.COPY, Priority.EVENT), (Priority.EVENT, Priority.COPY)])
def test_of_two_priorities_the_first_wins(desk: Desk, order: tuple[Priority, Priority]) -> None:
    for priority in order:
        schedule(desk, Due(U1, 5, "some", None, priority))
    assert desk.row(tables.reads)["priority"] == Priority.EVENT


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("urgent", "quiet", "event_id"), [("live", "old", "live"), ("live", None, "live"), (None, "old", "old")]
)
def test_of_two_the_urgent_ones_event_stays_with_the_later_time(
    desk: Desk, urgent: str | None, quiet: str | None, event_id: str, together: bool, turned: bool
) -> None:
    wanted = [Due(U1, 50, "echo", urgent), Due(U1, 90, "settling", quiet, Priority.COPY)]
    if turned:
        wanted.reverse()
    for some in [wanted] if together else [[due] for due in wanted]:
        schedule(desk, *some)
    row = desk.row(tables.reads)
    assert (row["due_at"], row["cause"]) == (90, "settling")
    assert (row["priority"], row["event_id"]) == (Priority.EVENT, event_id)


def test_what_is_due_is_taken_in_order_of_priority_and_time(desk: Desk) -> None:
    copied = [Due(user(f"c{at}"), at, "copy", None, Priority.COPY) for at in (1, 3)]
    schedule(desk, *copied, *(Due(user(f"e{at}"), at, "echo") for at in (4, 2)), Due(user("later"), 100, "echo"))
    assert names(take(desk, 50, limit=3)) == ["e2", "e4", "c1"]
    assert names(take(desk, 50)) == ["c3"]
    assert names(take(desk, 99)) == []
    assert names(take(desk, 100)) == ["later"]


def test_the_less_urgent_is_left_when_only_the_urgent_is_asked_for(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "copy", None, Priority.COPY))
    assert take(desk, 50, priority=Priority.EVENT) == []
    assert names(take(desk, 50, priority=Priority.COPY)) == ["u1"]


def test_reads_of_one_corp_alone(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "copy"), Due(user("theirs", "dingother"), 1, "copy"))
    assert names(take(desk, 50, corp_id="dingother")) == ["theirs"]
    assert names(take(desk, 50, corp_id=CORP)) == ["u1"]


def test_what_was_taken_tells_what_it_is_for(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo", "why"))
    (read,) = take(desk, 50)
    assert read == Taken(U1, 1, 0, "why", Priority.EVENT)


def test_a_taken_read_comes_back_when_its_worker_died(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo"))
    take(desk, 50)
    assert next_due(desk) == 50 + TAKEN_MICROSECONDS
    assert take(desk, 49 + TAKEN_MICROSECONDS) == []
    assert names(take(desk, 50 + TAKEN_MICROSECONDS)) == ["u1"]


def test_a_finished_read_is_gone(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo"), Due(user("u2"), 1, "echo"))
    finish(desk, [read for read in take(desk, 50) if read.entity == U1])
    assert [row["entity_id"] for row in desk.rows(tables.reads)] == ["u2"]


def test_a_read_that_was_asked_for_anew_stays_when_the_old_one_is_finished(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo"))
    taken = take(desk, 50)
    schedule(desk, Due(U1, 60, "mark"))
    finish(desk, taken)
    assert names(take(desk, 60)) == ["u1"]


def test_a_read_that_was_asked_for_anew_is_not_put_off_by_the_old_one(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo"))
    (read,) = take(desk, 50)
    schedule(desk, Due(U1, 60, "mark"))
    with desk.store.writing() as connection:
        reads.postpone(connection, {read: "why"}, {read: 10**9}, charged=True)
    row = desk.row(tables.reads)
    assert (row["due_at"], row["attempts"], row["error"]) == (60, 0, None)


def test_what_is_refused_for_good_is_tried_on_behind_events(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo", "e1"))
    (read,) = take(desk, 50)
    with desk.store.writing() as connection:
        reads.postpone(connection, {read: "no permission"}, {read: 70}, charged=True, lowered=True)
        assert reads.take(connection, 70, 9, Priority.EVENT) == []
        assert names(reads.take(connection, 70, 9, Priority.HEAL)) == ["u1"]
    assert desk.row(tables.reads)["event_id"] == "e1"


@pytest.mark.parametrize(("charged", "attempts"), [(True, 1), (False, 0)])
def test_a_read_that_was_put_off_says_why(desk: Desk, charged: bool, attempts: int) -> None:
    schedule(desk, Due(U1, 1, "echo"))
    (read,) = take(desk, 50)
    with desk.store.writing() as connection:
        reads.postpone(connection, {read: "DingTalk is away"}, {read: 70}, charged)
    row = desk.row(tables.reads)
    assert (row["due_at"], row["attempts"], row["error"]) == (70, attempts, "DingTalk is away")
    assert next_due(desk) == 70
    assert [read.attempts for read in take(desk, 70)] == [attempts]


def test_when_the_next_read_is_due(desk: Desk) -> None:
    assert next_due(desk) is None
    schedule(desk, Due(U1, 40, "echo"), Due(user("u2"), 30, "echo"))
    assert next_due(desk) == 30


def test_how_many_wait_that_no_event_led_to(desk: Desk) -> None:
    schedule(desk, Due(U1, 1, "echo", "e1"), *(Due(department(n), 1, "copy", None, Priority.COPY) for n in (2, 3)))
    schedule(desk, Due(roles("dingother"), 1, "copy", None, Priority.COPY))
    schedule(desk, Due(user("u2"), 1, "heal", None, Priority.HEAL))
    with desk.store.reading() as connection:
        assert reads.waiting(connection, CORP) == 3
        assert reads.waiting(connection, "dingother") == 1
        assert reads.noted(connection, "dingother") == {roles("dingother")}


def test_what_is_noted_already_is_left_as_it_is(desk: Desk) -> None:
    schedule(desk, Due(U1, 90, "echo", "e1"))
    with desk.store.writing() as connection:
        wanted = [Due(U1, 5, "heal", None, Priority.HEAL), Due(user("u2"), 5, "heal", None, Priority.HEAL)]
        assert reads.add(connection, wanted) == 1
        assert reads.add(connection, []) == 0
    first, second = desk.rows(tables.reads)
    assert (first["due_at"], first["event_id"], first["version"]) == (90, "e1", 1)
    assert (second["due_at"], second["cause"], second["priority"]) == (5, "heal", Priority.HEAL)


def test_nothing_to_do_is_nothing(desk: Desk) -> None:
    with desk.store.writing() as connection:
        reads.schedule(connection, [])
        reads.finish(connection, [])
        reads.postpone(connection, {}, {}, charged=True)
        assert reads.take(connection, 10, 10, Priority.COPY) == []


def test_two_workers_never_take_the_same_read(desk: Desk) -> None:
    schedule(desk, *(Due(user(f"u{number:03}"), 1, "copy") for number in range(100)))
    start = threading.Barrier(4)

    def work() -> list[Entity]:
        start.wait()
        found: list[Entity] = []
        while taken := take(desk, 50, limit=7):
            found += [read.entity for read in taken]
        return found

    with ThreadPoolExecutor(4) as pool:
        shares = [future.result() for future in [pool.submit(work) for _ in range(4)]]
    everything = [entity for share in shares for entity in share]
    assert sorted(everything) == [user(f"u{number:03}") for number in range(100)]
