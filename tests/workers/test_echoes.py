"""An event's entities are read once more when answers have settled."""

import pytest

from tests.workers.helpers import (
    Desk,
    a_department,
    a_user,
    an_event,
    department,
    knows,
    settle,
    taken,
    user,
)
from workers.moment import SECOND, Moment
from workers.store import tables
from workers.store.draft import Absence

U1, U2, ROOT = user("u1"), user("u2"), department(1)


class TestEcho:
    def due_times(self, desk: Desk) -> dict[str, tuple[int, str, str | None]]:
        rows = desk.rows(tables.reads)
        return {row["entity_id"]: (row["due_at"], row["cause"], row["event_id"]) for row in rows}

    def test_what_an_event_names_is_read_once_more_when_it_has_settled(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(), U2: a_user("u2")})
        accepted = desk.clock.now()
        outcome = desk.apply(an_event(users=["u1", "u2"], event_id="e1"), accepted=accepted)
        due = accepted.micros + 60 * SECOND
        assert self.due_times(desk) == {"u1": (due, "echo", "e1"), "u2": (due, "echo", "e1")}
        assert outcome.next_due == due

    def test_of_several_events_the_last_counts(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        first = desk.clock.now()
        desk.apply(an_event(users=["u1"], event_id="e1"), accepted=first)
        second = desk.clock.now()
        desk.apply(an_event(users=["u1"], event_id="e2"), accepted=second)
        desk.apply(an_event(users=["u1"], event_id="late"), accepted=first)
        assert self.due_times(desk) == {"u1": (second.micros + 60 * SECOND, "echo", "e2")}

    def test_a_folded_event_has_its_echo_too(self, desk: Desk) -> None:
        accepted = desk.clock.now()
        desk.write({U1: a_user()})
        desk.apply(an_event(users=["u1"], event_id="e1"), accepted=accepted)
        assert self.due_times(desk) == {"u1": (accepted.micros + 60 * SECOND, "echo", "e1")}

    @pytest.mark.parametrize(("past", "echoes"), [(59, 1), (61, 0)])
    def test_a_read_that_began_after_it_settled_needs_none(self, desk: Desk, past: int, echoes: int) -> None:
        knows(desk, {U1: a_user()})
        now = desk.clock.now()
        desk.apply(an_event(users=["u1"]), accepted=Moment(now.micros - past * SECOND, now.life))
        assert len(self.due_times(desk)) == echoes

    def test_for_an_event_of_another_life_the_read_itself_is_the_beginning(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        desk.apply(an_event(users=["u1"], event_id="e1"), accepted=Moment(1, "another"))
        assert self.due_times(desk) == {"u1": (desk.user()["read_begun"] + 60 * SECOND, "echo", "e1")}

    def test_without_credentials_there_is_none(self, desk: Desk) -> None:
        desk.script.able = False
        knows(desk, {U1: Absence.UNREAD})
        assert desk.apply(an_event(users=["u1"], event_id="e1")).final == {"e1": "applied"}
        assert self.due_times(desk) == {}

    def test_an_ignored_org_remove_has_its_echo(self, desk: Desk) -> None:
        """A stale answer may still show a corp that is dissolved."""
        knows(desk, {ROOT: a_department(1, None)})
        desk.apply(an_event("org_remove", event_id="e1"))
        assert self.due_times(desk).keys() == {"1"}

    def test_an_echo_leaves_no_echo(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(name="stale")})
        desk.apply(an_event(users=["u1"], event_id="e1"))
        knows(desk, {U1: a_user(name="truth")})
        settle(desk)
        desk.apply(taken=desk.take())
        assert desk.user()["name"] == "truth"
        assert desk.script.asked == [U1, U1]
        assert (self.due_times(desk), desk.take()) == ({}, [])
        # Why it was read again is the event that told of it first.
        assert [row["event_id"] for row in desk.rows(tables.changes)] == ["e1", "e1"]

    def test_an_event_that_comes_with_an_echo_shares_its_read_and_has_one_of_its_own(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        echo = taken(desk, U1)
        accepted = desk.clock.now()
        assert desk.apply(an_event(users=["u1"], event_id="e1"), accepted=accepted, taken=echo).final == {
            "e1": "applied"
        }
        assert desk.script.asked == [U1]
        assert self.due_times(desk) == {"u1": (accepted.micros + 60 * SECOND, "echo", "e1")}
