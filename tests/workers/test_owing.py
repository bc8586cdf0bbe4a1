"""What events and changes owe to users' functions, and what is quiet."""

import pytest

from bridge.events import Via
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
    settle,
    taken,
    user,
)
from workers import fold
from workers.store import tables
from workers.store.reads import Due, Priority

U1, ROOT = user("u1"), department(1)


def owed(desk: Desk) -> list[tuple[str, str | None, int | None]]:
    return [(row["function"], row["event_id"], row["change_seq"]) for row in desk.rows(tables.outbox)]


class TestOwedJobs:
    @pytest.fixture
    def wanted(self, desk: Desk) -> list[str]:
        """Functions for every change, and for two types of event; their names."""

        def changed(change: object, directory: object) -> None: ...

        def happened(event: object, directory: object) -> None: ...

        desk.registry.on_change("user", "department", "role", "role_group", "corp")(changed)
        desk.registry.on("user_add_org", "user_modify_org", "org_remove")(happened)
        return desk.registry.names()

    def test_an_event_and_its_change_owe_a_job_each(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user()})
        outcome = desk.apply(an_event(users=["u1"], event_id="e1"))
        (seq,) = [row["seq"] for row in desk.rows(tables.changes)]
        assert owed(desk) == [(wanted[0], "e1", seq), (wanted[1], "e1", None)]
        assert outcome.lanes == {row["lane"] for row in desk.rows(tables.outbox)}
        assert len(outcome.lanes) == 2

    def test_a_folded_event_owes_its_job_too(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user()})
        desk.apply(*(an_event(users=["u1"], event_id=name) for name in ("e1", "e2")))
        assert [event_id for function, event_id, _ in owed(desk) if function == wanted[1]] == ["e1", "e2"]

    def test_a_repeat_owes_nothing(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user()})
        event = an_event(users=["u1"])
        desk.apply(event)
        before = owed(desk)
        desk.apply(event)
        assert owed(desk) == before

    def test_an_event_that_two_workers_apply_at_once_owes_one_job(self, desk: Desk, wanted: list[str]) -> None:
        """The one was taken for dead, and another has its event."""
        knows(desk, {U1: a_user()})
        event = an_event(users=["u1"], event_id="e1")
        desk.script.meanwhile = lambda: desk.apply(event)
        assert desk.apply(event).final.keys() == {"e1"}
        assert [event_id for function, event_id, _ in owed(desk) if function == wanted[1]] == ["e1"]
        assert len(desk.rows(tables.events)) == 1

    def test_changes_of_one_entity_share_a_lane_in_their_order(self, desk: Desk, wanted: list[str]) -> None:
        for name in "abc":
            knows(desk, {U1: a_user(name=name)})
            desk.apply(an_event("label_user_change", users=["u1"]))
        rows = desk.rows(tables.outbox)
        assert len({row["lane"] for row in rows}) == 1
        assert [row["change_seq"] for row in rows] == [row["seq"] for row in desk.rows(tables.changes)]

    def test_a_failed_event_owes_its_job_once_it_is_applied(self, desk: Desk, wanted: list[str]) -> None:
        event = an_event(users=["u1"], event_id="e1")
        desk.folder.fail(fold.Waiting(event, desk.clock.now()), "given up")
        assert owed(desk) == []
        knows(desk, {U1: a_user()})
        desk.apply(event)
        assert (wanted[1], "e1", None) in owed(desk)

    def test_a_replay_reads_again_keeps_its_row_and_owes_nothing(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user(name="old")})
        desk.apply(an_event(users=["u1"], event_id="e1"))
        before, told = owed(desk), desk.rows(tables.events)
        knows(desk, {U1: a_user(name="new", departments={2: 1})})
        desk.apply(an_event(users=["u1"], event_id="e1", via="replay"))
        assert (desk.user()["name"], len(desk.changes())) == ("new", 2)
        assert (owed(desk), desk.rows(tables.events)) == (before, told)

    def test_a_replay_with_jobs_owes_them_again(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user(name="old")})
        desk.apply(an_event(users=["u1"], event_id="e1"))
        before = owed(desk)
        knows(desk, {U1: a_user(name="new")})
        desk.apply(an_event(users=["u1"], event_id="e1", via="replay_with_jobs"))
        seq = desk.rows(tables.changes)[-1]["seq"]
        assert owed(desk)[len(before) :] == [(wanted[0], "e1", seq), (wanted[1], "e1", None)]
        assert desk.row(tables.events)["via"] == "http"

    @pytest.mark.parametrize("order", [("old", "live"), ("live", "old")])
    def test_a_replay_does_not_silence_what_happens_beside_it(
        self, desk: Desk, wanted: list[str], order: tuple[str, str]
    ) -> None:
        knows(desk, {U1: a_user()})
        via: dict[str, Via] = {"old": "replay", "live": "http"}
        desk.apply(*(an_event("label_user_change", ["u1"], event_id=name, via=via[name]) for name in order))
        assert [(function, event_id) for function, event_id, _ in owed(desk)] == [(wanted[0], "live")]
        assert desk.statuses() == {"old": "folded", "live": "applied"}

    def test_nor_what_a_read_finds_that_was_due_by_itself(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user()})
        desk.apply(an_event("label_user_change", ["u1"], event_id="old", via="replay"), taken=taken(desk, U1))
        assert [function for function, _, _ in owed(desk)] == [wanted[0]]

    @pytest.mark.parametrize("via", ["replay", "replay_with_jobs"])
    def test_a_replay_whose_row_was_pruned_meanwhile_is_recorded_as_one(self, desk: Desk, via: Via) -> None:
        knows(desk, {U1: a_user()})
        desk.apply(an_event(users=["u1"], via=via))
        assert desk.row(tables.events)["via"] == "replay"

    def test_a_copy_owes_nothing(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user(), ROOT: a_department(1, None), roles(): a_role_list({1: {11: "a"}})})
        for entity in (ROOT, roles(), U1):
            desk.apply(taken=taken(desk, entity, Priority.COPY))
        assert {entity for entity, _, _ in desk.changes()} == {"corp", "department", "role", "role_group", "user"}
        assert owed(desk) == []

    @pytest.mark.parametrize("cause", ["copy", "replay"])
    def test_what_a_copy_or_a_replay_finds_on_its_way_owes_nothing_either(
        self, desk: Desk, wanted: list[str], cause: str
    ) -> None:
        """A user may come before its department, whose own read is still ahead."""
        knows(desk, {U1: a_user(departments={2: 1}), department(2): a_department(2), ROOT: a_department(1, None)})
        if cause == "copy":
            late = Due(department(2), desk.clock.now().micros, "copy", None, Priority.COPY)
            first = taken(desk, U1, Priority.COPY)
            schedule(desk, late)
            desk.apply(taken=first)
        else:
            desk.apply(an_event(users=["u1"], via="replay"))
        while due := desk.take():
            desk.apply(taken=due)
        assert desk.row(tables.departments, dept_id=2)["fetched_at"] is not None
        assert owed(desk) == []

    def test_what_an_event_finds_on_its_way_owes_its_jobs(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user(departments={2: 1}), department(2): a_department(2), ROOT: a_department(1, None)})
        schedule(desk, Due(department(2), desk.clock.now().micros, "copy", None, Priority.COPY))
        desk.apply(an_event("label_user_change", users=["u1"]))
        while due := desk.take():
            desk.apply(taken=due)
        kinds = {row["seq"]: row["entity"] for row in desk.rows(tables.changes)}
        assert {kinds[seq] for _, _, seq in owed(desk) if seq} == {"user", "department", "corp"}

    def test_an_echo_owes_the_jobs_of_what_it_finds(self, desk: Desk, wanted: list[str]) -> None:
        knows(desk, {U1: a_user(name="stale")})
        desk.apply(an_event("label_user_change", users=["u1"], event_id="e1"))
        knows(desk, {U1: a_user(name="truth")})
        settle(desk)
        desk.apply(taken=desk.take())
        assert [(function, event_id) for function, event_id, _ in owed(desk)] == [(wanted[0], "e1")] * 2

    def test_an_ignored_event_owes_its_job(self, desk: Desk, wanted: list[str]) -> None:
        desk.write({ROOT: a_department(1, None)})
        knows(desk, {ROOT: a_department(1, None)})
        desk.apply(an_event("org_remove", event_id="e1"))
        assert (desk.statuses(), owed(desk)) == ({"e1": "ignored"}, [(wanted[1], "e1", None)])
