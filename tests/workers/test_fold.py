"""Events become reads: what is read, what covers what, and which final row each event gets."""

from datetime import UTC, datetime
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from bridge.events import Event
from tests.servers import running_redis
from tests.workers.helpers import (
    Desk,
    a_department,
    a_role_list,
    a_user,
    an_event,
    chain_breaks,
    department,
    knows,
    roles,
    taken,
    user,
)
from workers import fold
from workers.errors import Misconfigured, Throttled, Transient
from workers.moment import SECOND, Moment, RedisClock
from workers.readers import Answer
from workers.store import tables
from workers.store.draft import Absence
from workers.store.reads import Priority

U1, U2, ROOT = user("u1"), user("u2"), department(1)


def owed(desk: Desk) -> list[tuple[str, str | None, int | None]]:
    return [(row["function"], row["event_id"], row["change_seq"]) for row in desk.rows(tables.outbox)]


class TestFolding:
    def test_ten_events_of_one_user_cost_one_read(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        events = [an_event(users=["u1"], event_id=f"e{number}") for number in range(10)]
        outcome = desk.apply(*events)
        assert desk.script.asked == [U1]
        expected = {"e0": "applied"} | {f"e{number}": "folded" for number in range(1, 10)}
        assert outcome.final == desk.statuses() == expected
        assert outcome.errors == {}

    def test_more_than_is_read_at_once_is_committed_in_parts(self, desk: Desk) -> None:
        """What others have read meanwhile is not read again, and reads that are due come after the events'."""
        desk.at_once = 2
        people = [f"u{number}" for number in range(12 * fold.MAX_ROUNDS)]
        knows(desk, {user(userid): a_user(userid) for userid in [*people, "due"]})
        due = taken(desk, user("due"))
        desk.script.meanwhile = lambda: desk.write({user(people[-1]): a_user(people[-1])})
        outcome = desk.apply(an_event(users=people, event_id="e1"), taken=due)
        assert outcome.final == desk.statuses() == {"e1": "applied"}
        assert desk.script.asked == [user(userid) for userid in [*people[:-1], "due"]]
        begun = [desk.user(userid)["read_begun"] for userid in people[:-1]]
        assert begun == sorted(begun)
        assert len(set(begun)) == len(begun) // 2 + 1

    def test_the_change_tells_the_event_it_was_read_for(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        desk.apply(an_event(users=["u1"], event_id="e1"), an_event(users=["u1"], event_id="e2"))
        assert [row["event_id"] for row in desk.rows(tables.changes)] == ["e1"]

    def test_a_committed_read_that_began_later_covers_the_event(self, desk: Desk) -> None:
        accepted = desk.clock.now()
        desk.write({U1: a_user()})
        outcome = desk.apply(an_event(users=["u1"], event_id="e1"), accepted=accepted)
        assert desk.script.asked == []
        assert outcome.final == {"e1": "folded"}

    @pytest.mark.parametrize("earlier", [0, 1])
    def test_one_that_began_no_later_does_not(self, desk: Desk, earlier: int) -> None:
        knows(desk, {U1: a_user()})
        desk.write({U1: a_user()})
        begun, life = desk.user()["read_begun"], desk.user()["read_life"]
        outcome = desk.apply(an_event(users=["u1"], event_id="e1"), accepted=Moment(begun + earlier, life))
        assert desk.script.asked == [U1]
        assert outcome.final == {"e1": "applied"}

    def test_one_of_another_life_of_redis_does_not(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        accepted = desk.clock.now()
        with running_redis() as url, redis.Redis.from_url(url) as connection:
            Desk(desk.store, RedisClock(connection)).write({U1: a_user()})
        assert desk.user()["read_begun"] > accepted.micros
        assert desk.apply(an_event(users=["u1"], event_id="e1"), accepted=accepted).final == {"e1": "applied"}
        assert desk.script.asked == [U1]

    def test_an_event_with_many_users_reads_what_is_not_covered(self, desk: Desk) -> None:
        accepted = desk.clock.now()
        desk.write({U1: a_user()})
        knows(desk, {U2: a_user("u2")})
        event = an_event(users=["u1", "u2", "u1"], event_id="e1")
        assert desk.apply(event, accepted=accepted).final == {"e1": "applied"}
        assert desk.script.asked == [U2]

    def test_an_event_whose_entities_were_read_for_others_is_folded(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(), U2: a_user("u2")})
        events = [an_event(users=users, event_id="".join(users)) for users in (["u1"], ["u2"], ["u1", "u2"])]
        assert desk.apply(*events).final == {"u1": "applied", "u2": "applied", "u1u2": "folded"}
        folded = {row["id"]: row["folded_into"] for row in desk.rows(tables.events)}
        assert folded == {"u1": None, "u2": None, "u1u2": ["u1", "u2"]}

    def test_an_event_is_folded_into_the_one_that_an_earlier_read_was_made_for(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(), department(2): a_department(2), ROOT: a_department(1, None), roles(): []})
        accepted = desk.clock.now()
        desk.apply(an_event(users=["u1"], event_id="e1"))
        desk.apply(an_event("org_dept_modify", departments=[2], event_id="e2"))
        desk.apply(an_event("label_conf_add", event_id="e3"))
        desk.apply(an_event(users=["u1"], event_id="late1"), accepted=accepted)
        desk.apply(an_event("org_dept_modify", departments=[2], event_id="late2"), accepted=accepted)
        desk.apply(an_event("label_conf_del", event_id="late3"), accepted=accepted)
        folded = {row["id"]: row["folded_into"] for row in desk.rows(tables.events)}
        assert {name: folded[name] for name in folded if name.startswith("late")} == {
            "late1": ["e1"],
            "late2": ["e2"],
            "late3": ["e3"],
        }

    def test_a_read_that_no_event_asked_for_leaves_none_to_name(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        accepted = desk.clock.now()
        desk.apply(taken=taken(desk, U1, Priority.COPY))
        desk.apply(an_event(users=["u1"], event_id="e1"), accepted=accepted)
        row = desk.row(tables.events)
        assert (row["status"], row["folded_into"]) == ("folded", [])

    def test_every_kind_of_entity_at_once(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(departments={2: 1}, roles=[11]), department(2): a_department(2)})
        knows(desk, {roles(): a_role_list({1: {11: "a"}}), ROOT: a_department(1, None)})
        desk.apply(
            an_event("user_add_org", ["u1"]),
            an_event("org_dept_create", departments=[2]),
            an_event("label_conf_add", roles=[11]),
            an_event("org_change"),
        )
        assert set(desk.script.asked) == {U1, department(2), roles(), ROOT}
        assert set(desk.statuses().values()) == {"applied"}
        # What was written together asks for nothing more: the user's department and role are there.
        assert {row["cause"] for row in desk.rows(tables.reads)} == {"echo"}

    def test_an_event_that_came_before_needs_nothing(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        event = an_event(users=["u1"], event_id="e1")
        desk.apply(event)
        before = desk.rows(tables.events), desk.rows(tables.users), desk.rows(tables.reads)
        assert desk.apply(event).final.keys() == {"e1"}
        assert desk.script.asked == [U1]
        assert before == (desk.rows(tables.events), desk.rows(tables.users), desk.rows(tables.reads))

    def test_an_event_that_failed_can_still_be_applied(self, desk: Desk) -> None:
        event = an_event(users=["u1"], event_id="e1")
        knows(desk, {U1: a_user()})
        desk.folder.fail(fold.Waiting(event, desk.clock.now()), "given up")
        assert desk.row(tables.events)["error"] == "given up"
        assert desk.apply(event).final == {"e1": "applied"}
        row = desk.row(tables.events)
        assert (row["status"], row["error"]) == ("applied", None)

    def test_failing_an_event_that_was_applied_changes_nothing(self, desk: Desk) -> None:
        event = an_event(users=["u1"], event_id="e1")
        knows(desk, {U1: a_user()})
        desk.apply(event)
        desk.folder.fail(fold.Waiting(event, desk.clock.now()), "given up")
        assert desk.statuses() == {"e1": "applied"}


def test_roles_known_by_their_ids_alone_cover_no_others(desk: Desk) -> None:
    """Of an app that can read nothing: the list that one event named is no read for the next."""
    accepted = desk.clock.now()
    knows(desk, {roles(): Absence.UNREAD})
    for number in (5, 6):
        desk.apply(an_event("label_conf_add", roles=[number], event_id=f"e{number}"), accepted=accepted)
    assert [row["role_id"] for row in desk.rows(tables.roles)] == [5, 6]
    assert desk.statuses() == {"e5": "applied", "e6": "applied"}


class TestIgnored:
    @pytest.mark.parametrize(
        ("event", "reason"),
        [
            (an_event("chat_update_title", ["u1"]), "its type is not in the catalogue"),
            (an_event("user_modify_org"), "it names nothing that is read"),
            (an_event("suite_ticket", corp=None), "it names no corp, and its app has none"),
            (an_event("user_modify_org", ["u1"], corp=None), "it names no corp, and its app has none"),
        ],
    )
    def test_what_names_nothing_to_read_is_ignored_with_the_reason(self, desk: Desk, event: Event, reason: str) -> None:
        desk.apply(event)
        row = desk.row(tables.events)
        assert (row["status"], row["error"]) == ("ignored", reason)
        assert (desk.script.asked, desk.rows(tables.reads)) == ([], [])


class TestOvertaken:
    def test_an_entity_that_was_overtaken_is_read_again_and_ends_true(self, desk: Desk) -> None:
        """Another worker's read, noted before the event came, commits in between: it does not cover the event."""
        desk.write({U1: a_user(name="first")})
        others = desk.refresher.note([U1])
        knows(desk, {U1: a_user(name="truth")})
        desk.script.meanwhile = lambda: desk.write({U1: a_user(name="stale")}, others)
        assert desk.apply(an_event(users=["u1"], event_id="e1")).final == {"e1": "applied"}
        assert desk.script.asked == [U1, U1]
        assert desk.user()["name"] == "truth"
        assert list(chain_breaks(desk.rows(tables.changes))) == []

    def test_one_overtaken_by_a_later_read_is_covered_by_it(self, desk: Desk) -> None:
        knows(desk, {U1: a_user(name="stale")})
        desk.script.meanwhile = lambda: desk.write({U1: a_user(name="truth")})
        assert desk.apply(an_event(users=["u1"], event_id="e1")).final == {"e1": "folded"}
        assert desk.script.asked == [U1]
        assert desk.user()["name"] == "truth"

    def test_the_rest_of_the_batch_is_not_read_again(self, desk: Desk) -> None:
        desk.write({U1: a_user(name="first")})
        others = desk.refresher.note([U1])
        knows(desk, {U1: a_user(name="truth"), U2: a_user("u2")})
        desk.script.meanwhile = lambda: desk.write({U1: a_user(name="stale")}, others)
        desk.apply(an_event(users=["u2"], event_id="e2"), an_event(users=["u1", "u2"], event_id="e1"))
        assert desk.script.asked == [U1, U2, U1] or desk.script.asked == [U2, U1, U1]
        assert desk.statuses() == {"e1": "applied", "e2": "applied"}

    def test_what_is_overtaken_all_the_time_is_left_to_a_later_attempt(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        desk.write({U1: a_user()})

        def overtake() -> None:
            # Under an older moment than the event's, so that it never covers it.
            noted = desk.refresher.note([U1])
            desk.write({U1: a_user()}, noted._replace(moment=Moment(1, noted.moment.life)))
            desk.script.meanwhile = overtake

        desk.script.meanwhile = overtake
        outcome = desk.apply(an_event(users=["u1"], event_id="e1"))
        assert isinstance(outcome.errors["e1"], Throttled)
        assert (outcome.final, desk.statuses()) == ({}, {})
        assert len(desk.script.asked) == fold.MAX_ROUNDS

    def test_a_fence_that_was_raised_makes_it_read_again(self, desk: Desk) -> None:
        desk.write({U1: a_user(name="first")})
        knows(desk, {U1: a_user(name="truth")})

        def compare() -> None:
            with desk.store.writing() as connection:
                connection.execute(tables.fences.update().values(n=tables.fences.c.n + 1))

        desk.script.meanwhile = compare
        assert desk.apply(an_event(users=["u1"], event_id="e1")).final == {"e1": "applied"}
        assert desk.script.asked == [U1, U1]
        assert desk.user()["name"] == "truth"


class TestErrors:
    def test_an_error_stands_against_its_event_alone(self, desk: Desk) -> None:
        error = Misconfigured("60011", "no permission", "/user/get")
        knows(desk, {U1: error, U2: a_user("u2")})
        outcome = desk.apply(
            an_event(users=["u1"], event_id="bad"),
            an_event(users=["u2"], event_id="good"),
            an_event(users=["u1", "u2"], event_id="both"),
        )
        assert outcome.final == desk.statuses() == {"good": "applied"}
        assert outcome.errors == {"bad": error, "both": error}
        assert [row["userid"] for row in desk.rows(tables.users)] == ["u2"]

    def test_one_that_is_refused_leaves_none_of_the_others_unread(self, desk: Desk) -> None:
        """They are read, and read once more when that has settled, though their event fails."""
        desk.at_once = 2
        people = [f"u{number}" for number in range(6)]
        error = Misconfigured("400002", "bad", "/user/get")
        knows(desk, {user("bad"): error} | {user(userid): a_user(userid) for userid in people})
        outcome = desk.apply(an_event(users=["bad", *people], event_id="e1"))
        assert (outcome.final, outcome.errors) == ({}, {"e1": error})
        assert {row["userid"] for row in desk.rows(tables.users)} == set(people)
        assert {row["entity_id"] for row in desk.rows(tables.reads)} == set(people)
        assert len(desk.script.asked) == 1 + len(people)

    def test_where_nothing_can_be_read_it_is_not_tried_id_by_id(self, desk: Desk) -> None:
        """Each would take as long as DingTalk's answer is waited for."""
        desk.at_once = 2
        people = [f"u{number}" for number in range(6)]
        knows(desk, dict.fromkeys(map(user, people), Transient("timeout", "no answer")))
        outcome = desk.apply(an_event(users=people, event_id="e1"))
        assert (list(outcome.errors), len(desk.script.asked)) == (["e1"], 2)

    def test_as_long_as_anything_may_pass_it_is_tried_again(self, desk: Desk) -> None:
        busy = Throttled("90018", "busy", "/user/get")
        knows(desk, {U1: Misconfigured("400002", "bad", "/user/get"), U2: busy})
        assert desk.apply(an_event(users=["u1", "u2"], event_id="e1")).errors == {"e1": busy}
        assert desk.rows(tables.reads) == []

    def test_an_error_of_a_read_that_was_due_does_not_stand_against_who_is_covered(self, desk: Desk) -> None:
        accepted = desk.clock.now()
        desk.write({U1: a_user()})
        knows(desk, {U1: Misconfigured("60011", "no permission", "/user/get")})
        outcome = desk.apply(an_event(users=["u1"], event_id="e1"), accepted=accepted, taken=taken(desk, U1))
        assert (outcome.final, outcome.errors) == ({"e1": "folded"}, {})

    def test_an_error_changes_nothing(self, desk: Desk) -> None:
        desk.write({U1: a_user(departments={2: 1})})
        before = desk.user(), desk.rows(tables.department_members)
        knows(desk, {U1: Transient("-1", "busy")})
        desk.apply(an_event(users=["u1"]))
        assert (desk.user(), desk.rows(tables.department_members)) == before

    def test_rows_and_final_status_are_committed_together(self, desk: Desk) -> None:
        knows(desk, {U1: a_user()})
        with pytest.raises((TypeError, sa.exc.StatementError)):
            desk.apply(an_event(users=["u1"], payload=object()))
        assert (desk.rows(tables.users), desk.rows(tables.events), desk.rows(tables.reads)) == ([], [], [])


class TestOrgRemove:
    def remove(self, desk: Desk, answer: Answer) -> dict[str, Any]:
        knows(desk, {ROOT: answer})
        desk.apply(an_event("org_remove", event_id="e1"))
        return desk.row(tables.events)

    def test_it_is_ignored_while_the_root_department_can_be_read(self, desk: Desk) -> None:
        desk.write({ROOT: a_department(1, None), U1: a_user()})
        row = self.remove(desk, a_department(1, None))
        assert row["status"] == "ignored"
        assert "the corp was not dissolved" in row["error"]
        assert desk.user()["deleted_at"] is None

    @pytest.mark.parametrize("answer", [Absence.DISSOLVED, Absence.GONE, Absence.UNREAD])
    def test_the_corp_is_dissolved_otherwise(self, desk: Desk, answer: Absence) -> None:
        desk.write({ROOT: a_department(1, None), U1: a_user(departments={1: 1})})
        assert self.remove(desk, answer)["status"] == "applied"
        assert desk.row(tables.corps)["status"] == "dissolved"
        assert desk.user()["deleted_at"] is not None
        assert desk.rows(tables.department_members) == []

    def test_whether_it_is_dissolved_is_asked_anew(self, desk: Desk) -> None:
        """A committed read that began later covers any other event."""
        accepted = desk.clock.now()
        desk.write({ROOT: a_department(1, None)})
        knows(desk, {ROOT: Absence.DISSOLVED})
        desk.apply(an_event("org_remove"), accepted=accepted)
        assert desk.script.asked == [ROOT]
        assert desk.row(tables.corps)["status"] == "dissolved"

    def test_one_that_is_hidden_answers(self, desk: Desk) -> None:
        desk.write({ROOT: a_department(1, None)})
        row = self.remove(desk, Absence.HIDDEN)
        assert row["status"] == "ignored"
        assert "still answers for the root department" in row["error"]

    def test_nothing_comes_to_life_with_the_event_that_ends_its_corp(self, desk: Desk) -> None:
        desk.write({ROOT: a_department(1, None), U1: a_user()})
        knows(desk, {ROOT: Absence.DISSOLVED, U1: a_user(), U2: a_user("u2"), roles(): a_role_list({1: {11: "a"}})})
        desk.apply(
            an_event("org_remove", event_id="e1"),
            an_event(users=["u1", "u2"], event_id="e2"),
            an_event("label_conf_add", roles=[11], event_id="e3"),
        )
        assert desk.statuses() == {"e1": "applied", "e2": "applied", "e3": "applied"}
        for table in (tables.corps, tables.users, tables.departments, tables.roles):
            assert desk.rows(table, deleted_at=None) == []

    def test_other_events_of_the_corp_in_the_same_batch_end_with_it(self, desk: Desk) -> None:
        desk.write({ROOT: a_department(1, None), U1: a_user(), roles(): a_role_list({1: {11: "a"}})})
        knows(desk, dict.fromkeys((ROOT, U1, U2, roles()), Absence.DISSOLVED))
        desk.apply(
            an_event(users=["u1", "u2"], event_id="e1"),
            an_event("org_remove", event_id="e2"),
            an_event("label_conf_modify", roles=[11], event_id="e3"),
        )
        assert desk.statuses() == {"e1": "applied", "e2": "applied", "e3": "applied"}
        for table in (tables.corps, tables.users, tables.departments, tables.roles):
            assert desk.rows(table, deleted_at=None) == []
        assert list(chain_breaks(desk.rows(tables.changes))) == []


def test_the_final_row_tells_when(desk: Desk) -> None:
    knows(desk, {U1: a_user()})
    accepted = desk.clock.now()
    desk.apply(an_event(users=["u1"]), accepted=accepted)
    row = desk.row(tables.events)
    assert row["received_at"] == datetime.fromtimestamp(accepted.micros / SECOND, UTC)
    assert 0 <= (row["applied_at"] - row["received_at"]).total_seconds() < 30
