"""The department calls and scopes: shapes, walks, errors."""

from typing import Any

import pytest

from simulator.model import ROOT
from simulator.server import Simulator
from simulator.tenant import View
from tests.simulator.helpers import CORP, Api

DETAIL: dict[str, type] = {
    "dept_id": int,
    "name": str,
    "order": int,
    "create_dept_group": bool,
    "auto_add_user": bool,
    "dept_group_chat_id": str,
    "group_contain_sub_dept": bool,
    "org_dept_owner": str,
    "dept_manager_userid_list": list,
    "outer_dept": bool,
    "outer_permit_depts": list,
    "outer_permit_users": list,
    "hide_dept": bool,
    "dept_permits": list,
    "user_permits": list,
    "source_identifier": str,
    "tags": str,
    "from_union_org": bool,
    "code": str,
    "auto_approve_apply": bool,
    "member_count": int,
    "owning_member_count": int,
    "union_dept_ext": dict,
}


def test_department_get(sim: Simulator, api: Api) -> None:
    tenant = sim.tenants[CORP]
    root = api.post("/topapi/v2/department/get", {"dept_id": ROOT})["result"]
    assert {name: type(value) for name, value in root.items()} == DETAIL
    assert root["name"] == tenant.name
    dept_id = next(key for key in tenant.departments.rows if key != ROOT and View(tenant).managers(key))
    shown = api.post("/topapi/v2/department/get", {"dept_id": str(dept_id)})["result"]
    assert {name: type(value) for name, value in shown.items()} == DETAIL | {"parent_id": int}
    assert shown["dept_manager_userid_list"] == View(tenant).managers(dept_id)


def test_walks_from_the_root_meet_every_department_once(sim: Simulator, api: Api) -> None:
    found: list[int] = []
    waiting = [ROOT]
    while waiting:
        dept_id = waiting.pop()
        found.append(dept_id)
        rows = api.post("/topapi/v2/department/listsub", {} if dept_id == ROOT else {"dept_id": dept_id})["result"]
        ids = api.post("/topapi/v2/department/listsubid", {"dept_id": dept_id})["result"]["dept_id_list"]
        assert [row["dept_id"] for row in rows] == ids
        assert all(
            set(row) == {"dept_id", "name", "parent_id", "create_dept_group", "auto_add_user"}
            and row["parent_id"] == dept_id
            for row in rows
        )
        waiting += ids
    assert sorted(found) == sorted(sim.tenants[CORP].departments.rows)


def test_parents(sim: Simulator, api: Api) -> None:
    tenant = sim.tenants[CORP]
    view = View(tenant)
    deepest = max(tenant.departments.rows, key=lambda key: len(view.ancestors(key)))
    chain = api.post("/topapi/v2/department/listparentbydept", {"dept_id": deepest})["result"]["parent_id_list"]
    assert chain[0] == deepest and chain[-1] == ROOT and len(chain) >= 4
    user = next(user for user in tenant.users.rows.values() if len(user.departments) > 1)
    listed = api.post("/topapi/v2/department/listparentbyuser", {"userid": user.userid})["result"]["parent_list"]
    assert [row["parent_dept_id_list"][0] for row in listed] == [row.dept_id for row in user.departments]


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("/topapi/v2/department/get", {"dept_id": 5}, 60003),
        ("/topapi/v2/department/get", {"dept_id": -1}, 60003),
        ("/topapi/v2/department/get", {}, 400002),
        ("/topapi/v2/department/get", {"dept_id": [1]}, 400002),
        ("/topapi/v2/department/listsub", {"dept_id": 5}, 60003),
        ("/topapi/v2/department/listsubid", {"dept_id": 5}, 60003),
        ("/topapi/v2/department/listsubid", {}, 400002),
        ("/topapi/v2/department/listparentbydept", {"dept_id": 5}, 60003),
        ("/topapi/v2/department/listparentbyuser", {"userid": "nobody"}, 33012),
    ],
)
def test_errors(api: Api, path: str, body: dict[str, Any], errcode: int) -> None:
    assert api.post(path, body)["errcode"] == errcode


def test_scope(sim: Simulator, api: Api) -> None:
    tenant = sim.tenants[CORP]
    inside = next(key for key in tenant.departments.rows if key != ROOT and tenant.children.get(key))
    child = next(iter(tenant.children[inside]))
    api.control("PUT", "/access", {"app": "acme", "authed_dept": [inside]})
    scopes = api.get("/auth/scopes")
    assert scopes["auth_org_scopes"] == {"authed_user": [], "authed_dept": [inside]}
    assert "mobile" in scopes["auth_user_field"] and scopes["condition_field"] == []
    assert api.post("/topapi/v2/department/get", {"dept_id": child})["errcode"] == 0
    assert api.post("/topapi/v2/department/get", {"dept_id": ROOT})["errcode"] == 50004
    assert api.post("/topapi/v2/department/listsub", {})["errcode"] == 50004
    assert api.post("/topapi/v2/department/listsubid", {"dept_id": ROOT})["errcode"] == 0


def test_the_whole_company_is_dept_1(api: Api) -> None:
    assert api.get("/auth/scopes")["auth_org_scopes"]["authed_dept"] == [ROOT]


def test_a_dissolved_organisation_answers_70001(sim: Simulator, api: Api) -> None:
    sim.change("acme", "org_remove")
    assert api.post("/topapi/v2/department/get", {"dept_id": ROOT})["errcode"] == 70001
    assert api.post("/topapi/v2/user/get", {"userid": "x"})["errcode"] == 70001
    assert api.post("/topapi/role/list", {})["errcode"] == 70001
