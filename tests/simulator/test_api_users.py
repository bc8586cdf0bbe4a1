"""The user calls: shapes, paging, scope, permissions, errors."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from simulator.apps import PERMISSIONS
from simulator.model import ROOT, User
from simulator.server import Simulator
from simulator.tenant import View
from tests.simulator.helpers import CORP, Api

ALWAYS: dict[str, type] = {
    "userid": str,
    "unionid": str,
    "name": str,
    "state_code": str,
    "mobile": str,
    "hide_mobile": bool,
    "telephone": str,
    "job_number": str,
    "title": str,
    "email": str,
    "org_email": str,
    "work_place": str,
    "remark": str,
    "exclusive_account": bool,
    "dept_id_list": list,
    "active": bool,
    "admin": bool,
    "boss": bool,
}
DETAIL: dict[str, type] = ALWAYS | {
    "dept_order_list": list,
    "leader_in_dept": list,
    "role_list": list,
    "real_authed": bool,
    "senior": bool,
    "union_emp_ext": dict,
}
OPTIONAL = {"avatar": str, "manager_userid": str, "hired_date": int, "extension": str}


def someone(sim: Simulator, **wanted: Any) -> User:
    users = sim.tenants[CORP].users.rows.values()
    return next(user for user in users if all(bool(getattr(user, name)) is value for name, value in wanted.items()))


def typed(shown: dict[str, Any], types: dict[str, type]) -> None:
    assert {name: type(shown[name]) for name in types} == types


def test_user_get(sim: Simulator, api: Api) -> None:
    user = someone(sim, avatar=True, manager_userid=True, hired_date=True, extension=True, roles=True)
    answer = api.post("/topapi/v2/user/get", {"userid": user.userid, "language": "zh_CN"})
    assert answer["errcode"] == 0 and answer["errmsg"] == "ok" and answer["request_id"]
    typed(answer["result"], DETAIL | OPTIONAL)
    assert set(answer["result"]) == set(DETAIL | OPTIONAL)
    assert answer["result"]["hired_date"] == user.hired_date
    assert answer["result"]["dept_order_list"] == [{"dept_id": d, "order": o} for d, o, _ in user.departments]
    assert answer["result"]["leader_in_dept"] == [{"dept_id": d, "leader": leads} for d, _, leads in user.departments]
    typed(answer["result"]["role_list"][0], {"id": int, "name": str, "group_name": str})


def test_what_a_user_has_not_is_left_out(sim: Simulator, api: Api) -> None:
    user = someone(sim, avatar=False, manager_userid=False)
    shown = api.post("/topapi/v2/user/get", {"userid": user.userid})["result"]
    assert "avatar" not in shown and "manager_userid" not in shown


def test_user_get_takes_a_form(sim: Simulator, api: Api) -> None:
    user = someone(sim)
    raw = api.raw(
        "POST",
        f"/topapi/v2/user/get?access_token={api.token}",
        fields={"userid": user.userid},
        encode_multipart=False,
    )
    assert raw.json()["result"]["userid"] == user.userid


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("/topapi/v2/user/get", {}, 400002),
        ("/topapi/v2/user/get", {"userid": "x" * 65}, 33012),
        ("/topapi/v2/user/get", {"userid": "nobody"}, 33012),
        ("/topapi/v2/user/list", {"dept_id": 1, "cursor": 0, "size": 101}, 40035),
        ("/topapi/v2/user/list", {"dept_id": 1, "cursor": -1, "size": 10}, 40035),
        ("/topapi/v2/user/list", {"dept_id": "x", "cursor": 0, "size": 10}, 40035),
        ("/topapi/v2/user/list", {"dept_id": 1, "cursor": 0, "size": 10, "order_field": "x"}, 40035),
        ("/topapi/v2/user/list", {"dept_id": 5, "cursor": 0, "size": 10}, 60003),
        ("/topapi/user/listsimple", {"dept_id": 1, "cursor": 0, "size": 101}, 40069),
        ("/topapi/user/listsimple", {"dept_id": 1, "cursor": -1, "size": 10}, 40068),
        ("/topapi/user/listsimple", {"dept_id": 5, "cursor": 0, "size": 10}, 60003),
        ("/topapi/user/listid", {"dept_id": -1}, 60003),
        ("/topapi/user/listid", {}, 400002),
        ("/topapi/user/get_admin_scope", {"userid": "nobody"}, 60121),
        ("/topapi/user/get_admin_scope", {}, 40036),
    ],
)
def test_errors(api: Api, path: str, body: dict[str, Any], errcode: int) -> None:
    answer = api.post(path, body)
    assert answer["errcode"] == errcode and answer["errmsg"] and "result" not in answer


@pytest.mark.parametrize("order", ["custom", "entry_asc", "entry_desc", "modify_desc"])
def test_lists_page_through_all_members(sim: Simulator, api: Api, order: str) -> None:
    members = max(sim.tenants[CORP].members.items(), key=lambda row: len(row[1]))
    listed: list[str] = []
    cursor, pages = 0, 0
    while True:
        asked = {"dept_id": members[0], "cursor": cursor, "size": 100, "order_field": order}
        result = api.post("/topapi/v2/user/list", asked)["result"]
        simple = api.post("/topapi/user/listsimple", asked)["result"]
        assert simple["list"] == [{"userid": row["userid"], "name": row["name"]} for row in result["list"]]
        listed += [row["userid"] for row in result["list"]]
        pages += 1
        if not result["has_more"]:
            break
        cursor = result["next_cursor"]
    assert "next_cursor" not in result
    assert pages == 3 and sorted(listed) == sorted(members[1]) and len(set(listed)) == len(listed)
    assert sorted(api.post("/topapi/user/listid", {"dept_id": members[0]})["result"]["userid_list"]) == sorted(listed)


def test_list_items(sim: Simulator, api: Api) -> None:
    dept_id = next(iter(sim.tenants[CORP].members))
    item = api.post("/topapi/v2/user/list", {"dept_id": dept_id, "cursor": 0, "size": 1})["result"]["list"][0]
    typed(item, ALWAYS | {"dept_order": int, "leader": bool})
    assert not {"role_list", "leader_in_dept", "dept_order_list", "manager_userid"} & set(item)


def test_listadmin_names_exactly_the_admins(sim: Simulator, api: Api) -> None:
    listed = {row["userid"]: row["sys_level"] for row in api.post("/topapi/user/listadmin")["result"]}
    users = sim.tenants[CORP].users.rows
    assert listed == {userid: user.admin_level for userid, user in users.items() if user.admin_level}
    assert sorted(set(listed.values())) == [1, 2]


def test_get_admin_scope_stands_at_the_top(sim: Simulator, api: Api) -> None:
    boss = someone(sim, boss=True)
    other = someone(sim, admin_level=False)
    assert api.post("/topapi/user/get_admin_scope", {"userid": boss.userid})["dept_ids"] == [ROOT]
    assert api.post("/topapi/user/get_admin_scope", {"userid": other.userid})["dept_ids"] == []


def test_scope_hides_users_but_not_ids(sim: Simulator, api: Api) -> None:
    tenant = sim.tenants[CORP]
    view = View(tenant)
    dept_id = next(key for key in tenant.members if key != ROOT)
    inside = next(iter(tenant.members[dept_id]))
    users = tenant.users.rows.values()
    outside = next(u for u in users if all(dept_id not in view.ancestors(row.dept_id) for row in u.departments))
    api.control("PUT", "/access", {"app": "acme", "authed_dept": [dept_id]})
    assert api.post("/topapi/v2/user/get", {"userid": inside})["errcode"] == 0
    assert api.post("/topapi/v2/user/get", {"userid": outside.userid})["errcode"] == 50002
    assert api.post("/topapi/v2/user/list", {"dept_id": ROOT, "cursor": 0, "size": 10})["errcode"] == 50004
    assert api.post("/topapi/user/listid", {"dept_id": ROOT})["errcode"] == 0
    assert api.post("/topapi/user/listadmin")["errcode"] == 0
    api.control("PUT", "/access", {"app": "acme", "authed_user": [outside.userid]})
    assert api.post("/topapi/v2/user/get", {"userid": outside.userid})["errcode"] == 0


def test_permissions_hide_fields_and_calls(sim: Simulator, api: Api) -> None:
    user = someone(sim, extension=True)
    api.control("PUT", "/access", {"app": "acme", "permissions": sorted(PERMISSIONS - {"mobile"})})
    shown = api.post("/topapi/v2/user/get", {"userid": user.userid})["result"]
    assert "mobile" not in shown and "state_code" not in shown and "email" in shown
    api.control("PUT", "/access", {"app": "acme", "permissions": sorted(PERMISSIONS - {"personal"})})
    shown = api.post("/topapi/v2/user/get", {"userid": user.userid})["result"]
    assert not {"email", "org_email", "work_place", "remark", "extension"} & set(shown) and "mobile" in shown
    api.control("PUT", "/access", {"app": "acme", "permissions": ["qyapi_base"]})
    assert api.post("/topapi/v2/user/get", {"userid": user.userid})["errcode"] == 60011


def test_leave_records(sim: Simulator, api: Api) -> None:
    left = someone(sim, admin_level=False)
    sim.change("acme", "user_leave_org", left.userid)
    assert api.post("/topapi/v2/user/get", {"userid": left.userid})["errcode"] == 60121
    headers = {"x-acs-dingtalk-access-token": api.token}
    path = "/v1.0/contact/empLeaveRecords"
    asked = {"startTime": "2020-01-01T00:00:00Z", "nextToken": "0", "maxResults": "50"}
    found = api.json("GET", path, fields=asked, headers=headers)
    assert [row["userId"] for row in found["records"]] == [left.userid] and "nextToken" not in found
    assert datetime.fromisoformat(found["records"][0]["leaveTime"]).tzinfo == UTC
    raw = api.raw("GET", path, fields=asked | {"maxResults": "51"}, headers=headers)
    assert raw.status == 400 and raw.json()["code"] == "invalidParameter.param.invalid"


def test_contact_user(sim: Simulator, api: Api) -> None:
    user = someone(sim)
    headers = {"x-acs-dingtalk-access-token": api.token}
    assert api.json("GET", f"/v1.0/contact/users/{user.unionid}", headers=headers)["nick"] == user.name
    raw = api.raw("GET", "/v1.0/contact/users/nobody", headers=headers)
    assert raw.status == 404 and raw.json()["code"] == "invalidParameter.user.notFound"


def test_a_stale_answer(sim: Simulator, api: Api) -> None:
    user = someone(sim, admin_level=False)
    tenant = sim.tenants[CORP]
    api.control("PUT", "/faults", {"lag_seconds": 300})
    tenant.put_user(replace(user, name="新名"))
    assert api.post("/topapi/v2/user/get", {"userid": user.userid})["result"]["name"] == user.name
    api.control("PUT", "/faults", {"lag_seconds": 0})
    assert api.post("/topapi/v2/user/get", {"userid": user.userid})["result"]["name"] == "新名"
