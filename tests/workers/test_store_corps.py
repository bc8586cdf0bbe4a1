"""A corp: named by its root department, and buried with all its rows when it is dissolved."""

from typing import Any

import pytest
import sqlalchemy as sa

from bridge.events import Entity
from tests.installation import CORP
from tests.workers.helpers import Desk, a_department, a_role_list, a_user, chain_breaks, department, roles, user
from workers.shapes import CorpName
from workers.store import corps, tables
from workers.store.draft import Absence

ROOT = department(1)
LIVING = (tables.corps, tables.departments, tables.users, tables.role_groups, tables.roles)
MEMBERSHIPS = (tables.department_members, tables.role_members)


def fill(desk: Desk, corp: str = CORP) -> None:
    """A corp with one of everything."""
    root, sales, somebody = department(1, corp), department(2, corp), Entity(corp, "user", "u1")
    desk.write({root: a_department(1, None, name="Ours"), sales: a_department(2)})
    desk.write({roles(corp): a_role_list({1: {11: "a"}}), somebody: a_user("u1", {2: 5}, roles=[11])})


def test_the_root_department_names_the_corp(desk: Desk) -> None:
    desk.write({ROOT: a_department(1, None, name="Ours")}, event_id="first")
    row = desk.row(tables.corps)
    assert (row["corp_id"], row["name"], row["status"], row["deleted_at"]) == (CORP, "Ours", "active", None)
    assert row["raw"]["name"] == "Ours"
    assert row["fetched_at"] is not None
    desk.write({ROOT: a_department(1, None, name="Renamed")}, event_id="second")
    assert desk.row(tables.corps)["name"] == "Renamed"
    story = desk.rows(tables.changes, entity="corp")
    assert [(row["operation"], row["event_id"]) for row in story] == [("create", "first"), ("update", "second")]


def test_a_pushed_name_makes_the_corp_once(desk: Desk) -> None:
    for event_id in ("first", "second"):
        desk.write({ROOT: CorpName("Ours")}, event_id=event_id)
    story = desk.rows(tables.changes, entity="corp")
    assert [(row["operation"], row["event_id"]) for row in story] == [("create", "first")]


@pytest.mark.parametrize("absence", [Absence.GONE, Absence.HIDDEN, Absence.UNREAD])
def test_a_root_that_says_nothing_leaves_the_corp(desk: Desk, absence: Absence) -> None:
    fill(desk)
    before = desk.row(tables.corps)
    desk.write({ROOT: absence})
    assert desk.row(tables.corps) == before
    assert desk.user()["deleted_at"] is None


def test_other_departments_say_nothing_of_the_corp(desk: Desk) -> None:
    fill(desk)
    desk.write({department(2): Absence.DISSOLVED})
    assert desk.row(tables.corps)["status"] == "active"


def test_a_dissolved_corp_is_buried_with_all_its_rows(desk: Desk) -> None:
    fill(desk)
    before = len(desk.changes())
    desk.write({ROOT: Absence.DISSOLVED}, event_id="end")
    assert desk.row(tables.corps)["status"] == "dissolved"
    for table in LIVING:
        assert [row for row in desk.rows(table) if row["deleted_at"] is None] == [], table.name
    assert [desk.rows(table) for table in MEMBERSHIPS] == [[], []]
    story = desk.rows(tables.changes)
    assert {(row["entity"], row["entity_id"]) for row in story[before:]} == {
        ("corp", CORP),
        ("department", "1"),
        ("department", "2"),
        ("role_group", "1"),
        ("role", "11"),
        ("user", "u1"),
    }
    assert {(row["operation"], row["event_id"]) for row in story[before:]} == {("delete", "end")}
    assert list(chain_breaks(story)) == []
    farewell = desk.rows(tables.changes, entity="user")[-1]
    assert farewell["before"]["departments"] == [{"dept_id": 2, "leader": False, "sort_order": 5}]
    assert (farewell["before"]["roles"], farewell["after"]["roles"]) == ([11], [])


def test_nobody_of_a_dissolved_corp_is_asked_for(desk: Desk) -> None:
    """As after a department that is gone, whose members must say where they are now."""
    fill(desk)
    desk.write({user("u1"): a_user("u1", {1: 5, 2: 5}, roles=[11])})
    assert desk.write({ROOT: Absence.DISSOLVED}).marks == {}


def test_a_burial_overtakes_whoever_noted_before(desk: Desk) -> None:
    fill(desk)
    noted = desk.refresher.note([user("u1"), department(2), roles()])
    desk.write({ROOT: Absence.DISSOLVED})
    desk.write({user("u1"): a_user(), department(2): a_department(2), roles(): a_role_list({1: {11: "a"}})}, noted)
    for table in LIVING:
        assert [row for row in desk.rows(table) if row["deleted_at"] is None] == [], table.name


def test_the_rows_of_another_corp_live_on(desk: Desk) -> None:
    fill(desk)
    fill(desk, "dingother")
    desk.write({ROOT: Absence.DISSOLVED})
    for table in LIVING:
        assert {row["corp_id"] for row in desk.rows(table) if row["deleted_at"] is None} == {"dingother"}, table.name
    for table in MEMBERSHIPS:
        assert {row["corp_id"] for row in desk.rows(table)} == {"dingother"}


def test_a_big_corp_is_buried_whole(desk: Desk) -> None:
    fill(desk)
    people = [{"corp_id": CORP, "userid": f"p{number:05}", "version": 1} for number in range(2 * corps.CHUNK + 1)]
    with desk.store.writing() as connection:
        connection.execute(sa.insert(tables.users), people)
    desk.write({ROOT: Absence.DISSOLVED})
    assert desk.rows(tables.users, deleted_at=None) == []
    assert {row["version"] for row in desk.rows(tables.users)} == {2}
    assert len(desk.rows(tables.changes, entity="user", operation="delete")) == len(people) + 1


def test_a_second_burial_changes_nothing(desk: Desk) -> None:
    fill(desk)
    desk.write({ROOT: Absence.DISSOLVED})
    died, told = desk.row(tables.corps)["deleted_at"], len(desk.changes())
    desk.write({ROOT: Absence.DISSOLVED})
    assert (desk.row(tables.corps)["deleted_at"], len(desk.changes())) == (died, told)


def test_a_corp_that_answers_again_is_restored(desk: Desk) -> None:
    fill(desk)
    desk.write({ROOT: Absence.DISSOLVED})
    desk.write({ROOT: a_department(1, None, name="Again")})
    row = desk.row(tables.corps)
    assert (row["name"], row["status"], row["deleted_at"]) == ("Again", "active", None)
    assert [row["operation"] for row in desk.rows(tables.changes, entity="corp")] == ["create", "delete", "restore"]
    assert list(chain_breaks(desk.rows(tables.changes))) == []


def test_a_corp_that_was_never_read_can_be_dissolved_and_restored(desk: Desk) -> None:
    desk.write({user("u1"): Absence.UNREAD})
    desk.write({ROOT: Absence.DISSOLVED})
    desk.write({ROOT: a_department(1, None, name="Again")})
    dissolved, restored = desk.rows(tables.changes, entity="corp")
    assert (dissolved["operation"], restored["operation"]) == ("delete", "restore")
    assert restored["before"] == dissolved["after"]


@pytest.mark.parametrize("answer", [a_user(), Absence.HIDDEN, Absence.UNREAD])
def test_nobody_comes_to_life_in_a_dissolved_corp(desk: Desk, answer: Any) -> None:
    """What lags behind, or was never read, says nothing of it."""
    fill(desk)
    desk.write({ROOT: Absence.DISSOLVED})
    draft = desk.write(
        {user("u1"): answer, user("new"): answer, department(2): Absence.HIDDEN, department(9): answer_of(answer)}
    )
    desk.write({roles(): a_role_list({1: {11: "a"}})})
    for table in LIVING:
        assert [row for row in desk.rows(table) if row["deleted_at"] is None] == [], table.name
    # Whether it lives after all is the root's to say.
    assert (ROOT in draft.marks) is not isinstance(answer, Absence)


def test_a_corp_that_lives_after_all_is_compared_as_a_whole(desk: Desk) -> None:
    fill(desk)
    desk.write({ROOT: Absence.DISSOLVED})
    desk.write({ROOT: a_department(1, None, name="Ours"), user("u1"): a_user()})
    assert desk.row(tables.corps)["status"] == "active"
    assert desk.user()["deleted_at"] is None
    due = desk.row(tables.comparisons)
    assert (due["due_at"] is None, due["whole"]) == (False, True)


def answer_of(answer: Any) -> Any:
    """The same of a department."""
    return answer if isinstance(answer, Absence) else a_department(9)
