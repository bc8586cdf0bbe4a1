"""What a user's function can ask the datastore."""

from tests.installation import CORP
from tests.workers.helpers import Desk, a_department, a_role_list, a_user, department, roles, user
from workers.directory import StoreDirectory
from workers.store.draft import Absence

U1 = user("u1")


def test_it_shows_the_present_state_of_its_corp(desk: Desk) -> None:
    desk.write({department(2): a_department(2), roles(): a_role_list({1: {11: "a"}})})
    desk.write({U1: a_user(departments={2: 5}, roles=[11]), user("u2"): a_user("u2", {2: 1})})
    desk.write({user("u3", "dingother"): a_user("u3", {2: 1})})
    directory = StoreDirectory(desk.store, CORP)
    found, whole, role = directory.user("u1"), directory.department(2), directory.role(11)
    assert found is not None
    assert whole is not None
    assert role is not None
    assert found["departments"] == [{"dept_id": 2, "leader": False, "sort_order": 5}]
    assert found["roles"] == [11]
    assert (whole["name"], role["name"]) == ("Department 2", "a")
    assert [member["userid"] for member in directory.members(2)] == ["u1", "u2"]
    assert {"version", "read_begun", "read_life", "read_event_id"}.isdisjoint(whole | found)


def test_what_was_never_seen_is_none(desk: Desk) -> None:
    desk.write({user("u3", "dingother"): a_user("u3", {2: 1}), department(2, "dingother"): a_department(2)})
    for corp in (CORP, None):
        directory = StoreDirectory(desk.store, corp)
        assert (directory.user("u3"), directory.department(2), directory.role(11)) == (None, None, None)
        assert directory.members(2) == []


def test_a_row_that_is_gone_is_still_there(desk: Desk) -> None:
    for answer in (a_user(departments={2: 1}), Absence.GONE):
        desk.write({U1: answer})
    directory = StoreDirectory(desk.store, CORP)
    found = directory.user("u1")
    assert found is not None
    assert found["deleted_at"] is not None
    assert directory.members(2) == []
