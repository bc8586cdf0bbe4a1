"""A department's row as each kind of answer leaves it, and whom it asks for."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.helpers import Desk, a_department, a_user, chain_breaks, department, user
from workers.store import tables
from workers.store.draft import Absence

ROOT, D2, D3 = department(1), department(2), department(3)


def the_department(desk: Desk, dept_id: int = 2) -> dict[str, Any]:
    return desk.row(tables.departments, dept_id=dept_id)


def test_every_field_of_an_answer_is_kept(desk: Desk) -> None:
    desk.write({ROOT: a_department(1, None)})
    answer = a_department(2, 1, name="Sales", order=2**63 - 1, dept_manager_userid_list=["u2", "u1"])
    noted = desk.refresher.note([D2])
    draft = desk.write({D2: answer}, noted, event_id="why")
    row = the_department(desk)
    assert (row["parent_id"], row["name"], row["sort_order"]) == (1, "Sales", 2**63 - 1)
    assert row["manager_userids"] == ["u2", "u1"]
    assert (row["deleted_at"], row["visible"], row["raw"]) == (None, True, answer.raw)
    assert row["fetched_at"] == datetime.fromtimestamp(noted.moment.micros / 1e6, UTC)
    assert draft.marks == {}
    assert desk.rows(tables.changes)[-1]["event_id"] == "why"


def test_empty_texts_and_lists(desk: Desk) -> None:
    desk.write({D2: a_department(2, name="", dept_manager_userid_list=[])})
    row = the_department(desk)
    assert (row["name"], row["manager_userids"]) == (None, [])


@pytest.mark.parametrize("parent", [None, 0, -1])
def test_the_root_has_no_parent(desk: Desk, parent: int | None) -> None:
    desk.write({ROOT: a_department(1, parent)})
    assert the_department(desk, 1)["parent_id"] is None


def test_a_child_before_its_parent_asks_for_the_parent(desk: Desk) -> None:
    desk.write({ROOT: a_department(1, None)})
    assert set(desk.write({D3: a_department(3, 2)}).marks) == {D2}
    assert desk.write({D2: a_department(2, 1)}).marks == {}
    assert desk.write({department(4): a_department(4, 2)}).marks == {}


def test_a_child_that_moves_under_a_tombstone_asks_for_it(desk: Desk) -> None:
    desk.write({ROOT: a_department(1, None), D2: a_department(2), D3: a_department(3)})
    desk.write({D2: Absence.GONE})
    assert set(desk.write({D3: a_department(3, 2)}).marks) == {D2}


def test_a_department_that_is_gone_asks_for_its_members_and_children(desk: Desk) -> None:
    desk.write({ROOT: a_department(1, None), D2: a_department(2), D3: a_department(3, 2), department(4): Absence.GONE})
    desk.write({user("u1"): a_user("u1", {2: 1}), user("u2"): a_user("u2", {3: 1}), user("u3"): a_user("u3", {2: 1})})
    draft = desk.write({D2: Absence.GONE})
    assert set(draft.marks) == {user("u1"), user("u3"), D3}
    assert the_department(desk)["deleted_at"] is not None
    # Memberships belong to the user: only an answer for the user removes them.
    assert len(desk.rows(tables.department_members, dept_id=2)) == 2
    assert desk.write({D2: Absence.GONE}).marks == {}


def test_a_hidden_department_stays_as_last_seen(desk: Desk) -> None:
    desk.write({D2: a_department(2, name="Sales")})
    draft = desk.write({D2: Absence.HIDDEN})
    row = the_department(desk)
    assert (row["name"], row["visible"], row["deleted_at"]) == ("Sales", False, None)
    assert draft.marks == {}


def test_a_department_comes_back_to_life(desk: Desk) -> None:
    for answer in (a_department(2), Absence.GONE, a_department(2, name="Again")):
        desk.write({D2: answer})
    row = the_department(desk)
    assert (row["deleted_at"], row["name"]) == (None, "Again")
    assert [operation for _, _, operation in desk.changes()] == ["create", "delete", "restore"]


def test_without_credentials_there_is_a_row_with_its_keys_alone(desk: Desk) -> None:
    desk.write({D2: Absence.UNREAD})
    row = the_department(desk)
    assert [row[name] for name in ("name", "parent_id", "fetched_at", "raw", "deleted_at")] == [None] * 5


def test_an_id_never_seen_that_is_gone_leaves_a_row_and_no_change(desk: Desk) -> None:
    desk.write({D2: Absence.GONE})
    row = the_department(desk)
    assert (row["version"], row["deleted_at"] is None, row["fetched_at"]) == (1, False, None)
    assert desk.changes() == []


def test_what_only_the_read_tells_is_no_change(desk: Desk) -> None:
    desk.write({D2: a_department(2)})
    desk.write({D2: a_department(2, group_contain_sub_dept=True)})
    assert len(desk.changes()) == 1
    desk.write({D2: a_department(2, dept_manager_userid_list=["u1"])})
    assert desk.changes()[-1] == ("department", "2", "update")


STATES = st.sampled_from(["here", "moved", Absence.GONE, Absence.HIDDEN])
ANSWERS = {"here": lambda: a_department(2), "moved": lambda: a_department(2, 3, name="Other")}


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STATES, min_size=1, max_size=6))
def test_changes_tell_the_whole_story_of_a_row(desk: Desk, states: list[Any]) -> None:
    with desk.store.writing() as connection:
        for table in (tables.changes, tables.departments):
            connection.execute(sa.delete(table))
    for state in states:
        desk.write({D2: ANSWERS[state]() if state in ANSWERS else state})
    story = desk.rows(tables.changes)
    assert list(chain_breaks(story)) == []
    assert all((change["operation"] == "create") == (change["before"] is None) for change in story)
