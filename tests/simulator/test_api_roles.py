"""The role calls: mixed casing, paging, errors."""

from typing import Any

import pytest

from simulator.server import Simulator
from tests.simulator.helpers import CORP, Api


def paged(api: Api, path: str, body: dict[str, Any], size: int) -> list[Any]:
    rows: list[Any] = []
    while True:
        result = api.post(path, body | {"size": size, "offset": len(rows)})["result"]
        rows += result["list"]
        if not result["hasMore"]:
            return rows


def test_role_list_pages_count_groups(sim: Simulator, api: Api) -> None:
    tenant = sim.tenants[CORP]
    groups = paged(api, "/topapi/role/list", {}, 3)
    assert [group["groupId"] for group in groups] == list(tenant.role_groups.rows)
    assert {role["id"] for group in groups for role in group["roles"]} == set(tenant.roles.rows)
    assert all(set(group) == {"groupId", "name", "roles"} for group in groups)
    assert groups == paged(api, "/topapi/role/list", {}, 200)
    assert any(group["roles"] == [] for group in groups)


def test_role_simplelist(sim: Simulator, api: Api) -> None:
    tenant = sim.tenants[CORP]
    role_id, holders = max(tenant.holders.items(), key=lambda row: len(row[1]))
    rows = paged(api, "/topapi/role/simplelist", {"role_id": role_id}, 100)
    assert sorted(row["userid"] for row in rows) == sorted(holders) and len(rows) > 100
    scopes = [scope for row in rows for scope in row["manageScopes"]]
    assert scopes and all(set(scope) == {"dept_id", "name"} for scope in scopes)
    default = api.post("/topapi/role/simplelist", {"role_id": role_id})["result"]
    assert len(default["list"]) == 20 and default["hasMore"] is True


def test_getrole_and_getrolegroup_have_no_result(sim: Simulator, api: Api) -> None:
    role = next(iter(sim.tenants[CORP].roles.rows.values()))
    shown = api.post("/topapi/role/getrole", {"roleId": role.role_id})
    assert shown["role"] == {"name": role.name, "groupId": role.group_id} and "result" not in shown
    group = api.post("/topapi/role/getrolegroup", {"group_id": role.group_id})["role_group"]
    assert {"role_id": role.role_id, "role_name": role.name} in group["roles"] and group["group_name"]


@pytest.mark.parametrize(
    ("path", "body", "errcode"),
    [
        ("/topapi/role/list", {"size": 201}, 40069),
        ("/topapi/role/list", {"offset": -1}, 40068),
        ("/topapi/role/simplelist", {"role_id": 5}, 33011),
        ("/topapi/role/simplelist", {}, 400002),
        ("/topapi/role/simplelist", {"role_id": 5, "size": 101}, 40069),
        ("/topapi/role/getrole", {"roleId": 5}, 33011),
        ("/topapi/role/getrole", {}, 33011),
        ("/topapi/role/getrolegroup", {"group_id": 5}, 400002),
    ],
)
def test_errors(api: Api, path: str, body: dict[str, Any], errcode: int) -> None:
    assert api.post(path, body)["errcode"] == errcode


def test_a_groups_id_is_no_role(sim: Simulator, api: Api) -> None:
    group_id = next(iter(sim.tenants[CORP].role_groups.rows))
    assert api.post("/topapi/role/getrole", {"roleId": group_id})["errcode"] == 33011
