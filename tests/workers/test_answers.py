"""Answers as they come, as the documentation's samples show them, and broken ones."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, ValidationError

from workers import answers, shapes
from workers.shapes import Membership, RoleName, RoleRef

USER: dict[str, Any] = {
    "userid": "zhangsan",
    "unionid": "z21H",
    "name": "张三",
    "avatar": "",
    "state_code": "86",
    "mobile": "18500000000",
    "hide_mobile": False,
    "job_number": "4",
    "title": "总监",
    "email": "",
    "manager_userid": "user01",
    "dept_id_list": [2, 3],
    "dept_order_list": [{"dept_id": 2, "order": 176305901987690512}],
    "leader_in_dept": [{"dept_id": 2, "leader": True}, {"dept_id": 3, "leader": False}],
    "role_list": [{"id": 100, "name": "总监", "group_name": "职务"}],
    "extension": '{"爱好":"旅游"}',
    "hired_date": 1597573616828,
    "active": True,
    "senior": False,
    "admin": False,
    "boss": False,
}


def user(**fields: Any) -> shapes.User:
    return answers.read_user({"errcode": 0, "result": USER | fields})


def without(*names: str) -> dict[str, Any]:
    return {"result": {name: value for name, value in USER.items() if name not in names}}


def test_a_user() -> None:
    found = user()
    assert (found.userid, found.name, found.mobile, found.title) == ("zhangsan", "张三", "18500000000", "总监")
    assert found.departments == (Membership(2, 176305901987690512, True), Membership(3, None, False))
    assert found.roles == (RoleRef(100, "总监", "职务"),)
    assert found.hired_date == 1597573616828
    assert (found.active, found.admin, found.boss, found.senior) == (True, False, False, False)
    assert found.extension == '{"爱好":"旅游"}'
    assert found.raw == USER


def test_absent_is_not_empty() -> None:
    found = answers.read_user(without("mobile", "hired_date", "active"))
    assert found.mobile is found.hired_date is found.active is found.telephone is UNSET
    assert user(mobile="", hired_date="", title=None).mobile is None
    assert user(hired_date="").hired_date is None
    assert user(hired_date=None).hired_date is None
    assert user(title=None).title is None
    assert user(active=None).active is UNSET
    assert user(active="").active is UNSET


@pytest.mark.parametrize(
    ("given", "meant"), [("true", True), ("False", False), (0, False), (1, True), ("0", False), ("1", True)]
)
def test_flags(given: Any, meant: bool) -> None:
    assert user(active=given).active is meant


@pytest.mark.parametrize("given", [[2, 3], ["2", "3"], "[2,3]", '["2", "3"]', [2, 3, 2, -1, 0], [2.0, 3]])
def test_department_ids(given: Any) -> None:
    assert [one.dept_id for one in user(dept_id_list=given).departments] == [2, 3]


@pytest.mark.parametrize("given", [[], "", {}, "[]"])
def test_in_no_department(given: Any) -> None:
    assert user(dept_id_list=given).departments == ()


@pytest.mark.parametrize("given", [2, "2", [2], "[2]"])
def test_in_one_department(given: Any) -> None:
    assert user(dept_id_list=given).departments == (Membership(2, 176305901987690512, True),)


def test_without_the_list_of_departments_the_others_tell() -> None:
    expected = (Membership(2, 176305901987690512, True), Membership(3, None, False))
    assert answers.read_user(without("dept_id_list")).departments == expected
    assert user(dept_id_list=None).departments == expected
    assert answers.read_user(without("dept_id_list", "dept_order_list", "leader_in_dept")).departments == ()


def test_objects_and_text_in_place_of_arrays() -> None:
    found = user(
        dept_order_list={"dept_id": "2", "order": "176305901987690513"},
        leader_in_dept='[{"dept_id":"3","leader":"true"}]',
        role_list={"role_id": "100", "role_name": "总监", "groupName": "职务"},
    )
    assert found.departments == (Membership(2, 176305901987690513, False), Membership(3, None, True))
    assert found.roles == (RoleRef(100, "总监", "职务"),)
    assert user(role_list={}).roles == user(role_list="").roles == user(role_list=None).roles == ()


def test_ids_and_texts_given_as_numbers() -> None:
    found = user(userid=90071992547409931, job_number=4, extension={"a": 1}, telephone=True, work_place={})
    assert (found.userid, found.job_number, found.extension) == ("90071992547409931", "4", '{"a":1}')
    assert found.work_place is None
    assert found.telephone == "true"
    assert user(userid="0012").userid == "0012"


@pytest.mark.parametrize(
    "fields",
    [
        {"userid": ""},
        {"userid": None},
        {"userid": True},
        {"userid": ["a"]},
        {"dept_id_list": ["two"]},
        {"dept_id_list": "[2,"},
        {"dept_id_list": [True]},
        {"dept_id_list": [{"dept_id": 2}]},
        {"dept_order_list": [3]},
        {"dept_order_list": [{"dept_id": 2, "order": "first"}]},
        {"role_list": [{"name": "nobody"}]},
        {"active": "perhaps"},
        {"active": 2},
        {"hired_date": "2020-08-16"},
        {"hired_date": 1.5},
    ],
)
def test_what_cannot_be_read_names_the_field_and_no_value(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        user(**fields)
    assert not any(word in str(caught.value) for word in ("two", "first", "perhaps", "2020", "nobody"))


@pytest.mark.parametrize("answer", [{"result": None}, {"result": []}, {"result": ""}, {"result": "zhangsan"}, {}])
def test_no_result(answer: dict[str, Any]) -> None:
    for read in (answers.read_user, answers.read_department):
        with pytest.raises(ValidationError):
            read(answer)


def test_a_department() -> None:
    result = {
        "dept_id": "100",
        "name": "HR",
        "parent_id": 1,
        "order": "176305901987690512",
        "dept_manager_userid_list": ["5", 6],
    }
    found = answers.read_department({"result": result})
    assert (found.dept_id, found.name, found.parent_id, found.order) == (100, "HR", 1, 176305901987690512)
    assert found.manager_userids == ("5", "6")
    assert found.raw == result


@pytest.mark.parametrize("parent", [None, "", 0, -1])
def test_the_root_has_no_parent(parent: Any) -> None:
    found = answers.read_department({"result": {"dept_id": 1, "name": "", "parent_id": parent}})
    assert (found.parent_id, found.order, found.manager_userids, found.name) == (None, None, (), None)


@pytest.mark.parametrize(
    ("given", "meant"), [("user5", ("user5",)), ('["5"]', ("5",)), ("", ()), ({}, ()), (None, ()), (5, ("5",))]
)
def test_managers(given: Any, meant: tuple[str, ...]) -> None:
    assert (
        answers.read_department({"result": {"dept_id": 2, "dept_manager_userid_list": given}}).manager_userids == meant
    )


def test_a_department_s_list_tells_order_and_leader_there() -> None:
    item = {"userid": "a", "dept_id_list": [2, 3], "dept_order": 9, "leader": "true", "mobile": "1"}
    page = answers.read_users({"result": {"has_more": False, "list": [item]}}, dept_id=3, cursor=0, size=100)
    assert page.next is None
    assert page.items[0].departments == (Membership(2, None, False), Membership(3, 9, True))
    assert page.items[0].manager_userid is UNSET


@pytest.mark.parametrize(
    ("result", "following"),
    [
        ({"has_more": True, "next_cursor": 10, "list": [{"userid": "a"}]}, 10),
        ({"hasMore": "true", "nextCursor": "10", "list": {"userid": "a"}}, 10),
        ({"has_more": False, "next_cursor": 10, "list": [{"userid": "a"}]}, None),
        ({"has_more": "false", "list": []}, None),
        ({"next_cursor": 10, "list": [{"userid": "a"}]}, 10),
        ({"has_more": True, "list": [{"userid": "a"}]}, 6),
        ({"has_more": True, "list": []}, None),
        ({"list": [{"userid": "a"}, {"userid": "b"}]}, 7),
        ({"list": [{"userid": "a"}]}, None),
        ({"list": ""}, None),
        ({}, None),
    ],
)
def test_the_next_page(result: dict[str, Any], following: int | None) -> None:
    assert answers.read_users({"result": result}, dept_id=1, cursor=5, size=2).next == following


def test_a_cursor_that_stands_still_is_refused() -> None:
    with pytest.raises(ValidationError, match="stands still"):
        answers.read_users({"result": {"has_more": True, "next_cursor": 5, "list": []}}, dept_id=1, cursor=5, size=2)


@pytest.mark.parametrize("top_level", [True, False])
def test_role_groups_in_both_casings(top_level: bool) -> None:
    result = {
        "has_more": True,
        "list": [
            {"groupId": "1", "name": "默认", "roles": [{"id": 11, "name": "负责人"}]},
            {"group_id": 2, "group_name": "职务", "roles": {"roleId": "21", "roleName": "总监"}},
            {"groupId": 3, "name": "", "roles": None},
        ],
    }
    page = answers.read_role_groups(result if top_level else {"result": result}, offset=0, size=200)
    assert [(group.group_id, group.name) for group in page.items] == [(1, "默认"), (2, "职务"), (3, None)]
    assert [group.roles for group in page.items] == [(RoleName(11, "负责人"),), (RoleName(21, "总监"),), ()]
    assert page.next == 3


@pytest.mark.parametrize(
    "result",
    [{}, {"list": None}, {"hasMore": True}, {"hasMore": True, "list": []}, {"has_more": "true", "list": "", "next": 9}],
)
def test_half_a_role_list_is_refused(result: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="list is"):
        answers.read_role_groups({"errcode": 0, "result": result}, offset=0, size=200)


@pytest.mark.parametrize("none", [[], "", {}, "[]"])
def test_no_role_groups_at_all(none: Any) -> None:
    assert answers.read_role_groups({"result": {"hasMore": False, "list": none}}, offset=0, size=200).items == []


CORP = {"corpid": "ding1", "corp_name": "ACME"}


@pytest.mark.parametrize("agents", [[{"agentid": 1, "agent_name": "A", "appid": 2}], {"agentid": "1", "appid": "2"}])
def test_an_authorisation(agents: Any) -> None:
    found = answers.read_authorization({"auth_corp_info": CORP, "auth_info": {"agent": agents}})
    assert (found.corp_id, found.corp_name) == ("ding1", "ACME")
    assert [(agent.agentid, agent.appid) for agent in found.agents] == [(1, 2)]
    assert answers.read_authorization({"auth_corp_info": CORP, "auth_info": {"agent": []}}).agents == ()


@pytest.mark.parametrize("told", [{}, {"auth_info": None}, {"auth_info": {}}, {"auth_info": {"agent": None}}])
def test_an_authorisation_that_says_nothing_of_agents_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        answers.read_authorization({"errcode": 0, "auth_corp_info": CORP} | told)


@pytest.mark.parametrize(
    ("orders", "leads"),
    [
        ("{1:0,-1:5,2:176292748870660512}", "{1:true,-1:false,2:false}"),
        ('{"1":0,"-1":5,"2":"176292748870660512"}', '{ "1" : "true", "-1" : "false" }'),
        ({"1": 0, "-1": 5, "2": 176292748870660512}, {"1": True, "-1": False, "2": False}),
    ],
)
def test_a_pushed_user_s_departments(orders: Any, leads: Any) -> None:
    """School contacts hang under negative ids, which no call can read."""
    row = {"department": [1, -1, 2], "orderindepts": orders, "isleaderindepts": leads}
    found = answers.read_pushed_user("a", row)
    assert found.departments == (Membership(1, 0, True), Membership(2, 176292748870660512, False))


def test_role_members() -> None:
    full = {"hasMore": True, "list": [{"userid": "a", "manageScopes": []}, {"userid": 7}]}
    page = answers.read_role_members({"result": full}, offset=100, size=2)
    assert page.items == ["a", "7"]
    assert page.next == 102


def test_lists_of_ids() -> None:
    assert answers.read_userids({"result": {"userid_list": ["a", 7, "a"]}}) == ["a", "7"]
    assert answers.read_userids({"result": {}}) == []
    assert answers.read_department_ids({"result": {"dept_id_list": "[5,-7,6]"}}) == [5, 6]
    assert answers.read_department_ids({"dept_id_list": [5]}) == [5]


def test_admins() -> None:
    assert answers.read_admins({"result": [{"userid": "a", "sys_level": 1}, {"userid": 2, "sys_level": "2"}]}) == [
        ("a", 1),
        ("2", 2),
    ]
    assert answers.read_admins({"result": {"userid": "a", "sys_level": 2}}) == [("a", 2)]
    with pytest.raises(ValidationError):
        answers.read_admins({"errcode": 0})


def test_the_scope() -> None:
    answer = {
        "errcode": 0,
        "auth_user_field": ["name", "mobile"],
        "condition_field": [],
        "auth_org_scopes": {"authed_user": [], "authed_dept": ["1", -7]},
    }
    scope = answers.read_scope(answer)
    assert (scope.users, scope.departments, scope.user_fields) == ((), (1,), ("name", "mobile"))
    with pytest.raises(ValidationError):
        answers.read_scope({"errcode": 0})


def test_a_token() -> None:
    assert answers.read_token({"access_token": "t", "expires_in": "7200"}) == ("t", 7200)
    for answer in ({"expires_in": 7200}, {"access_token": "", "expires_in": 7200}, {"access_token": "t"}):
        with pytest.raises(ValidationError):
            answers.read_token(answer)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dept_id", "id", "name"]), inner),
    max_leaves=5,
)


ANY_MACHINE = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


@ANY_MACHINE
@given(st.dictionaries(st.sampled_from(sorted(USER)), ANYTHING))
def test_whatever_comes_is_read_or_refused(fields: dict[str, Any]) -> None:
    """Never another error, and what was read is storable: exact types, no empty text."""
    try:
        found = user(**fields)
    except ValidationError:
        return
    assert isinstance(found.userid, str) and found.userid
    assert all(type(one.dept_id) is int and one.dept_id > 0 and type(one.leader) is bool for one in found.departments)
    assert found.name is None or (isinstance(found.name, str) and found.name)
    assert type(found.hired_date) in (int, type(None))
    assert msgspec.json.encode(found.raw)
