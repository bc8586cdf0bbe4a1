"""Reads that are due though no event asks for them: taken, made, put off, and what their answers ask for."""

import pytest

from tests.workers.helpers import (
    Desk,
    a_department,
    a_role_list,
    a_user,
    an_event,
    department,
    knows,
    roles,
    schedule,
    taken,
    user,
)
from workers.errors import ApiError, Misconfigured, Throttled, Transient
from workers.moment import SECOND
from workers.store import tables
from workers.store.draft import Absence
from workers.store.reads import Due

U1, ROOT = user("u1"), department(1)


class TestTakenReads:
    def test_one_that_was_asked_for_anew_meanwhile_stays(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        read = taken(desk, U1)
        desk.script.meanwhile = lambda: schedule(desk, Due(U1, 5, "mark"))
        desk.apply(taken=read)
        assert len(desk.take()) == 1

    def test_one_that_was_overtaken_is_made_again(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(name="truth")})
        read = taken(desk, U1)
        others = desk.refresher.note([U1])
        desk.script.meanwhile = lambda: desk.write({U1: a_user(name="stale")}, others)
        desk.apply(taken=read)
        assert desk.script.asked == [U1, U1]
        assert (desk.user()["name"], desk.rows(tables.reads)) == ("truth", [])

    @pytest.mark.parametrize(
        ("error", "attempts", "wait"),
        [
            (Transient("-1", "busy"), 1, 2.0),
            (Throttled("90018", "too many", wait=7.0), 0, 7.0),
            (Misconfigured("60011", "no permission"), 1, 2.0),
        ],
    )
    def test_one_without_an_answer_is_put_off(self, desk: Desk, error: ApiError, attempts: int, wait: float) -> None:
        knows(desk, {U1: error})
        before = desk.clock.now().micros
        outcome = desk.apply(taken=taken(desk, U1))
        row = desk.row(tables.reads)
        assert (row["attempts"], row["error"]) == (attempts, str(error))
        assert 0 <= row["due_at"] - before - wait * SECOND < 5 * SECOND
        assert outcome.late == {U1: error}
        assert outcome.next_due == row["due_at"]

    def test_what_an_answer_asks_for_is_due_at_once(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(departments={2: 1}), department(2): a_department(2)})
        desk.apply(an_event(users=["u1"], event_id="e1"))
        due = desk.take()
        assert [read.entity for read in due] == [department(2)]
        desk.apply(taken=due)
        # The change that it finds tells the event that led to it.
        assert {row["entity"]: row["event_id"] for row in desk.rows(tables.changes)} == {
            "user": "e1", "department": "e1",
        }  # fmt: skip
        assert [read.entity for read in desk.take()] == [ROOT]

    def test_what_was_read_in_the_same_go_is_not_asked_for(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(departments={2: 1}), department(2): a_department(2)})
        desk.write({ROOT: a_department(1, None)})
        desk.apply(an_event(users=["u1"]), an_event("org_dept_create", departments=[2]))
        assert desk.take() == []

    def test_a_department_that_is_gone_has_its_members_read(self, desk: Desk) -> None:
        desk.write({ROOT: a_department(1, None), department(2): a_department(2), U1: a_user(departments={2: 1})})
        knows(desk, {department(2): Absence.GONE, U1: a_user(departments={1: 1})})
        desk.settle_seconds = 0.0
        desk.apply(an_event("org_dept_remove", departments=[2]))
        desk.apply(taken=desk.take())
        assert [row["dept_id"] for row in desk.rows(tables.department_members)] == [1]

    def test_whoever_had_what_is_gone_is_read_once_that_has_settled(self, desk: Desk) -> None:
        """A member's answer can go on showing a role that the list has no more; also one of the same batch."""
        list_before, list_after = a_role_list({1: {11: "a", 12: "b"}}), a_role_list({1: {12: "b"}})
        desk.write({roles(): list_before})
        desk.write({U1: a_user(roles=[11])})
        knows(desk, {roles(): list_after, U1: a_user(roles=[11])})
        moment = desk.clock.now()
        schedule(desk, Due(U1, moment.micros, "echo"))
        desk.apply(an_event("label_conf_del", roles=[11]), accepted=moment, taken=desk.take())
        assert desk.take() == []
        due = desk.row(tables.reads, kind="user")["due_at"]
        assert due >= moment.micros + desk.settle_seconds * SECOND
