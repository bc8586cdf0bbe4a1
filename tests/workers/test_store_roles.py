"""The role list: read in one answer, written under one version."""

from typing import Any

from tests.installation import CORP
from tests.workers.helpers import Desk, a_role_list, a_user, chain_breaks, roles, user
from workers.store import tables
from workers.store.draft import Absence

ROLES = roles()


def living(desk: Desk) -> tuple[dict[int, str], dict[int, tuple[int, str]]]:
    """Groups by id, and roles by id with their group."""
    groups = {row["group_id"]: row["name"] for row in desk.rows(tables.role_groups, deleted_at=None)}
    return groups, {row["role_id"]: (row["group_id"], row["name"]) for row in desk.rows(tables.roles, deleted_at=None)}


def test_the_rows_are_what_the_list_says(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({1: {11: "a", 12: "b"}, 2: {}})}, event_id="why")
    assert living(desk) == ({1: "Group 1", 2: "Group 2"}, {11: (1, "a"), 12: (1, "b")})
    assert {row["event_id"] for row in desk.rows(tables.changes)} == {"why"}
    assert set(desk.changes()) == {
        ("role_group", "1", "create"),
        ("role_group", "2", "create"),
        ("role", "11", "create"),
        ("role", "12", "create"),
    }


def test_a_role_is_renamed_moved_removed_and_restored(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({1: {11: "a", 12: "b"}, 2: {}})})
    before = len(desk.changes())
    desk.write({ROLES: a_role_list({1: {11: "new"}, 2: {12: "b"}})})
    assert living(desk)[1] == {11: (1, "new"), 12: (2, "b")}
    desk.write({ROLES: a_role_list({2: {12: "b"}})})
    assert living(desk) == ({2: "Group 2"}, {12: (2, "b")})
    desk.write({ROLES: a_role_list({1: {11: "new"}, 2: {12: "b"}})})
    assert living(desk)[1] == {11: (1, "new"), 12: (2, "b")}
    assert desk.changes()[before:] == [
        ("role", "11", "update"),
        ("role", "12", "update"),
        ("role_group", "1", "delete"),
        ("role", "11", "delete"),
        ("role_group", "1", "restore"),
        ("role", "11", "restore"),
    ]
    assert list(chain_breaks(desk.rows(tables.changes))) == []


def test_a_role_that_is_gone_asks_for_its_members(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({1: {11: "a", 12: "b"}})})
    desk.write({user("u1"): a_user("u1", roles=[11, 12]), user("u2"): a_user("u2", roles=[12])})
    draft = desk.write({ROLES: a_role_list({1: {12: "b"}})})
    assert set(draft.marks) == {user("u1")}
    # Memberships belong to the user: only an answer for the user removes them.
    assert len(desk.rows(tables.role_members, role_id=11)) == 1
    assert desk.write({ROLES: a_role_list({1: {12: "b"}})}).marks == {}


def test_the_same_list_again_is_no_change(desk: Desk) -> None:
    for _ in range(2):
        desk.write({ROLES: a_role_list({1: {11: "a"}})})
    assert len(desk.changes()) == 2
    assert desk.row(tables.role_lists)["version"] == 2


def test_an_empty_list_takes_all_roles_away(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({1: {11: "a"}})})
    desk.write({ROLES: []})
    assert living(desk) == ({}, {})


def test_what_cannot_be_read_removes_nothing(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({1: {11: "a"}})})
    for absence in (Absence.GONE, Absence.HIDDEN, Absence.UNREAD):
        desk.write({ROLES: absence})
    assert living(desk)[1] == {11: (1, "a")}
    assert desk.row(tables.role_lists)["version"] == 4


def test_the_list_of_another_corp_stays(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({1: {11: "a"}}), roles("dingother"): a_role_list({1: {11: "theirs"}})})
    desk.write({ROLES: []})
    rows: list[dict[str, Any]] = desk.rows(tables.roles, deleted_at=None)
    assert [(row["corp_id"], row["name"]) for row in rows] == [("dingother", "theirs")]
    assert desk.row(tables.role_lists, corp_id=CORP)["version"] == 2


def test_ids_hold_64_bits(desk: Desk) -> None:
    desk.write({ROLES: a_role_list({2**63 - 1: {2**63 - 2: "far"}})})
    assert living(desk)[1] == {2**63 - 2: (2**63 - 1, "far")}
