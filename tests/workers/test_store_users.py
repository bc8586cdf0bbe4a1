"""A user's row and memberships, as each kind of answer leaves them, and what `changes` says of it."""

from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.installation import CORP
from tests.workers.helpers import Desk, a_department, a_role_list, a_user, chain_breaks, department, roles, user
from workers.store import tables
from workers.store.draft import GUARD_COLUMNS, Absence
from workers.store.tables import department_members, role_members
from workers.store.users import whole_user

U1 = user("u1")
#: What the API leaves out for lack of permission (contract).
KEPT = {
    "mobile": "13800000001", "state_code": "86", "telephone": "010-1", "email": "a@example.com",
    "org_email": "a@corp.example.com", "work_place": "Hangzhou", "remark": "a remark", "extension": '{"k":"v"}',
}  # fmt: skip
PLAIN = {
    "unionid": "union1", "name": "Zhang San", "title": "Engineer", "job_number": "007", "manager_userid": "boss",
    "active": True, "admin": False, "boss": True, "senior": False,
}  # fmt: skip
HIRED = 1_597_573_616_828
BEYOND_A_DOUBLE = 9_223_372_036_854_775_807


def memberships(desk: Desk, userid: str = "u1") -> dict[int, tuple[bool, int | None]]:
    rows = desk.rows(department_members, userid=userid)
    return {row["dept_id"]: (row["leader"], row["sort_order"]) for row in rows}


def assigned(desk: Desk, userid: str = "u1") -> list[int]:
    return [row["role_id"] for row in desk.rows(role_members, userid=userid)]


def test_every_field_of_an_answer_is_kept(desk: Desk) -> None:
    answer = a_user(**PLAIN, **KEPT, hired_date=HIRED)
    noted = desk.refresher.note([U1])
    desk.write({U1: answer}, noted)
    row = desk.user()
    assert {name: row[name] for name in PLAIN | KEPT} == PLAIN | KEPT
    assert row["hired_at"] == datetime(2020, 8, 16, 10, 26, 56, 828000, UTC)
    assert (row["visible"], row["deleted_at"]) == (True, None)
    assert row["fetched_at"] == datetime.fromtimestamp(noted.moment.micros / 1e6, UTC)
    assert row["raw"] == answer.raw


@pytest.mark.parametrize("name", [*KEPT, "name", "title", "job_number", "manager_userid", "unionid"])
def test_an_empty_string_is_null(desk: Desk, name: str) -> None:
    desk.write({U1: a_user(**{name: "once"})})
    desk.write({U1: a_user(**{name: ""})})
    assert desk.user()[name] is None


def test_a_field_left_out_for_lack_of_permission_keeps_its_value(desk: Desk) -> None:
    desk.write({U1: a_user(**KEPT, hired_date=HIRED)})
    desk.write({U1: a_user()})
    row = desk.user()
    assert {name: row[name] for name in KEPT} == KEPT
    assert row["hired_at"] is not None
    assert desk.changes() == [("user", "u1", "create")]


def test_it_keeps_it_also_when_the_row_comes_back_to_life(desk: Desk) -> None:
    for answer in (a_user(**KEPT, hired_date=HIRED), Absence.GONE, a_user()):
        desk.write({U1: answer})
    row = desk.user()
    assert row["deleted_at"] is None
    assert {name: row[name] for name in KEPT} == KEPT
    assert row["hired_at"] is not None


def test_any_other_field_left_out_is_null(desk: Desk) -> None:
    desk.write({U1: a_user(**PLAIN)})
    desk.write({U1: a_user(name=None)})
    assert {name: desk.user()[name] for name in PLAIN} == dict.fromkeys(PLAIN)


@pytest.mark.parametrize("given", [None, "", 10**18, -(10**18), -62_135_625_600_000, -62_135_510_400_001])
def test_a_hiring_date_that_is_none_is_null(desk: Desk, given: Any) -> None:
    desk.write({U1: a_user(hired_date=HIRED)})
    desk.write({U1: a_user(hired_date=given)})
    assert desk.user()["hired_at"] is None


def test_the_first_hiring_date_is_the_first_of_all(desk: Desk) -> None:
    desk.write({U1: a_user(hired_date=-62_135_510_400_000)})
    assert desk.user()["hired_at"] == datetime(1, 1, 2, tzinfo=UTC)


def test_memberships_follow_the_answer(desk: Desk) -> None:
    lead = {"leader_in_dept": [{"dept_id": 5, "leader": True}]}
    desk.write({U1: a_user(departments={2: 10, 5: BEYOND_A_DOUBLE}, roles=[7, 8], **lead)})
    assert memberships(desk) == {2: (False, 10), 5: (True, BEYOND_A_DOUBLE)}
    assert assigned(desk) == [7, 8]
    desk.write({U1: a_user(departments={5: -BEYOND_A_DOUBLE, 6: None}, roles=[8, 9])})
    assert memberships(desk) == {5: (False, -BEYOND_A_DOUBLE), 6: (False, None)}
    assert assigned(desk) == [8, 9]
    desk.write({U1: a_user()})
    assert memberships(desk) == {}
    assert assigned(desk) == []


def test_memberships_of_others_stay(desk: Desk) -> None:
    other = user("u2")
    desk.write({U1: a_user(departments={2: 1}, roles=[7]), other: a_user("u2", departments={2: 2}, roles=[7])})
    desk.write({U1: Absence.GONE})
    assert memberships(desk, "u2") == {2: (False, 2)}
    assert assigned(desk, "u2") == [7]


def test_whoever_is_hidden_stays_as_last_seen(desk: Desk) -> None:
    desk.write({U1: a_user(**PLAIN, departments={2: 10}, roles=[7])})
    seen = desk.user()
    desk.write({U1: Absence.HIDDEN})
    row = desk.user()
    assert (row["visible"], row["deleted_at"]) == (False, None)
    assert {name: row[name] for name in [*PLAIN, "fetched_at", "raw"]} == {
        name: seen[name] for name in [*PLAIN, "fetched_at", "raw"]
    }
    assert (memberships(desk), assigned(desk)) == ({2: (False, 10)}, [7])
    assert desk.changes() == [("user", "u1", "create"), ("user", "u1", "update")]
    desk.write({U1: a_user()})
    assert desk.user()["visible"] is True


def test_whoever_is_gone_leaves_a_tombstone_and_no_memberships(desk: Desk) -> None:
    desk.write({U1: a_user(**PLAIN, departments={2: 10}, roles=[7])})
    noted = desk.refresher.note([U1])
    desk.write({U1: Absence.GONE}, noted, event_id="farewell")
    row = desk.user()
    assert row["deleted_at"] == datetime.fromtimestamp(noted.moment.micros / 1e6, UTC)
    assert {name: row[name] for name in PLAIN} == PLAIN
    assert (memberships(desk), assigned(desk)) == ({}, [])
    change = desk.rows(tables.changes)[-1]
    assert (change["operation"], change["event_id"]) == ("delete", "farewell")
    assert change["before"]["departments"] == [{"dept_id": 2, "leader": False, "sort_order": 10}]
    assert change["before"]["roles"] == [7]
    assert (change["after"]["departments"], change["after"]["roles"]) == ([], [])


def test_a_tombstone_keeps_the_time_it_was_made(desk: Desk) -> None:
    for answer in (a_user(), Absence.GONE):
        desk.write({U1: answer})
    died = desk.user()["deleted_at"]
    desk.write({U1: Absence.GONE})
    assert desk.user()["deleted_at"] == died
    assert [operation for _, _, operation in desk.changes()] == ["create", "delete"]


def test_whoever_comes_back_is_restored(desk: Desk) -> None:
    for answer in (a_user(departments={2: 1}), Absence.GONE, a_user(departments={3: 1}, name="Again")):
        desk.write({U1: answer})
    row = desk.user()
    assert (row["deleted_at"], row["name"]) == (None, "Again")
    assert memberships(desk) == {3: (False, 1)}
    assert [operation for _, _, operation in desk.changes()] == ["create", "delete", "restore"]


@pytest.mark.parametrize("absence", [Absence.GONE, Absence.DISSOLVED])
def test_an_id_never_seen_that_is_gone_leaves_a_row_and_no_change(desk: Desk, absence: Absence) -> None:
    desk.write({U1: absence})
    row = desk.user()
    assert row["deleted_at"] is not None
    assert (row["version"], row["fetched_at"]) == (1, None)
    assert desk.changes() == []
    desk.write({U1: a_user()})
    assert desk.changes() == [("user", "u1", "create")]


def test_an_id_never_seen_that_is_hidden_leaves_a_row(desk: Desk) -> None:
    desk.write({U1: Absence.HIDDEN})
    row = desk.user()
    assert (row["visible"], row["deleted_at"], row["fetched_at"], row["version"]) == (False, None, None, 1)


def test_without_credentials_there_is_a_row_with_its_keys_alone(desk: Desk) -> None:
    desk.write({U1: Absence.UNREAD})
    row = desk.user()
    assert (row["version"], row["visible"]) == (1, True)
    own = {"corp_id", "userid", "visible", "version", "read_begun", "read_life"}
    assert {name for name, value in row.items() if value is not None} == own
    desk.write({U1: a_user()})
    assert [operation for _, _, operation in desk.changes()] == ["create", "update"]


def test_what_only_the_read_tells_is_no_change(desk: Desk) -> None:
    desk.write({U1: a_user(avatar="one.png")})
    desk.write({U1: a_user(avatar="two.png")})
    assert desk.user()["raw"]["avatar"] == "two.png"
    assert len(desk.changes()) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"departments": {2: 1}}, {"departments": {2: 2}}),
        ({"departments": {2: 1}}, {"departments": {2: 1, 3: 1}}),
        ({"roles": [1]}, {"roles": [2]}),
        ({"title": "a"}, {"title": "b"}),
        ({"mobile": "1"}, {"mobile": ""}),
    ],
)
def test_a_difference_is_one_update_with_whole_rows(desk: Desk, before: Any, after: Any) -> None:
    desk.write({U1: a_user(**before)})
    desk.write({U1: a_user(**after)}, event_id="why")
    change = desk.rows(tables.changes)[-1]
    assert (change["operation"], change["event_id"], change["corp_id"]) == ("update", "why", CORP)
    columns = {column.name for column in tables.users.columns} - GUARD_COLUMNS
    assert set(change["before"]) == set(change["after"]) == columns | {"departments", "roles"}
    assert change["before"] != change["after"]
    assert list(chain_breaks(desk.rows(tables.changes))) == []


def test_a_user_before_its_department_or_role_asks_for_them(desk: Desk) -> None:
    draft = desk.write({U1: a_user(departments={2: 1}, roles=[7])})
    assert set(draft.marks) == {department(2), roles()}
    desk.write({department(2): a_department(2), roles(): a_role_list({1: {7: "R"}})})
    other = user("u2")
    assert desk.write({other: a_user("u2", departments={2: 1}, roles=[7])}).marks == {}
    desk.write({department(2): Absence.GONE})
    draft = desk.write({user("u3"): a_user("u3", departments={2: 1})})
    assert set(draft.marks) == {department(2)}


def test_a_membership_that_stays_asks_for_nothing(desk: Desk) -> None:
    desk.write({U1: a_user(departments={2: 1}, roles=[7])})
    assert desk.write({U1: a_user(departments={2: 1}, roles=[7], title="new")}).marks == {}


def test_two_corps_may_have_the_same_userid(desk: Desk) -> None:
    other = user("u1", "dingother")
    desk.write({U1: a_user(departments={2: 1}), other: a_user(name="The other", departments={3: 1})})
    desk.write({U1: Absence.GONE})
    row = desk.row(tables.users, corp_id="dingother")
    assert (row["name"], row["deleted_at"]) == ("The other", None)
    assert [row["dept_id"] for row in desk.rows(department_members)] == [3]


def test_a_whole_user_has_its_memberships(desk: Desk) -> None:
    desk.write({U1: a_user(departments={3: 1, 2: 1}, roles=[9, 7])})
    with desk.store.reading() as connection:
        whole = whole_user(connection, CORP, "u1")
        assert whole_user(connection, CORP, "nobody") is None
    assert whole is not None
    assert [row["dept_id"] for row in whole["departments"]] == [2, 3]
    assert whole["roles"] == [7, 9]
    assert "version" not in whole


@pytest.mark.parametrize("order", [2**63, -(2**63) - 1])
def test_an_order_beyond_64_bits_is_refused_by_the_datastore(desk: Desk, order: int) -> None:
    with pytest.raises((sa.exc.DataError, OverflowError)):
        desk.write({U1: a_user(departments={2: order})})
    assert desk.rows(tables.users) == []


STATES = st.sampled_from(["here", "moved", "renamed", Absence.GONE, Absence.HIDDEN])
ANSWERS = {
    "here": lambda: a_user(departments={2: 1}, roles=[7]),
    "moved": lambda: a_user(departments={3: 1}),
    "renamed": lambda: a_user(name="Other", departments={2: 1}, roles=[7]),
}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STATES, min_size=1, max_size=7))
def test_changes_tell_the_whole_story_of_a_row(desk: Desk, states: list[Any]) -> None:
    with desk.store.writing() as connection:
        for table in (tables.changes, tables.users, department_members, role_members):
            connection.execute(sa.delete(table))
    for state in states:
        desk.write({U1: ANSWERS[state]() if state in ANSWERS else state})
    story = desk.rows(tables.changes)
    assert list(chain_breaks(story)) == []
    alive = False
    for change in story:
        was, alive = alive, change["after"]["deleted_at"] is None
        expected = {(True, False): ("delete",), (True, True): ("update",), (False, True): ("create", "restore")}
        assert change["operation"] in expected[was, alive]
        assert (change["operation"] == "create") == (change["before"] is None)
    assert alive == (desk.user()["deleted_at"] is None)
    assert desk.user()["version"] == len(states)
