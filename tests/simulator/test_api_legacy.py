"""The PyPI client dingtalk-sdk walks the simulator: departments, users, roles."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urljoin

import pytest
from dingtalk import AppKeyClient, DingTalkClientException

from simulator.model import ROOT
from simulator.server import Simulator
from simulator.tenant import View
from tests.simulator.helpers import AES_KEY, CORP, TOKEN, Api, Receiver


@pytest.fixture
def client(api: Api) -> Iterator[Any]:
    """The SDK's client with its two base URLs pointed here."""

    class Client(AppKeyClient):  # type: ignore[misc]
        API_BASE_URL = api.base + "/"

        def _handle_pre_top_request(self, params: dict[str, Any], uri: str) -> tuple[dict[str, Any], str]:
            params["session"] = self.access_token
            return params, urljoin(api.base, uri)

    found = Client(CORP, "dingappkey1", "secret1", TOKEN, AES_KEY)
    yield found
    found._http.close()


def test_walks_departments(sim: Simulator, client: Any) -> None:
    tenant = sim.tenants[CORP]
    found, waiting = [], [ROOT]
    while waiting:
        dept_id = waiting.pop()
        found.append(dept_id)
        waiting += client.department.list_ids(dept_id)
    assert sorted(found) == sorted(tenant.departments.rows)
    everything = client.department.list(ROOT, fetch_child=True)
    assert sorted([ROOT, *(row["id"] for row in everything)]) == sorted(found)
    one = client.department.get(everything[0]["id"])
    assert one["parentid"] == everything[0]["parentid"] and one["name"] == everything[0]["name"]
    chain = View(tenant).ancestors(found[-1])
    assert client.department.list_parent_depts_by_dept(found[-1]) == chain
    user = next(iter(tenant.users.rows.values()))
    chains = client.department.list_parent_depts(user.userid)
    assert [row[0] for row in chains] == [row.dept_id for row in user.departments]


def test_walks_users(sim: Simulator, client: Any) -> None:
    tenant = sim.tenants[CORP]
    found: set[str] = set()
    for dept_id in tenant.departments.rows:
        offset, more = 0, True
        while more:
            page = client.user.list(dept_id, offset, 100)
            simple = client.user.simple_list(dept_id, offset, 100)
            assert [row["userid"] for row in simple["userlist"]] == [row["userid"] for row in page["userlist"]]
            found |= {row["userid"] for row in page["userlist"]}
            offset, more = offset + 100, page["hasMore"]
        assert sorted(client.user.get_dept_member(dept_id)) == sorted(tenant.members.get(dept_id, ()))
    assert found == set(tenant.users.rows)
    user = next(iter(tenant.users.rows.values()))
    shown = client.user.get(user.userid)
    assert shown["name"] == user.name and shown["department"] == [row.dept_id for row in user.departments]
    assert client.user.get_userid_by_unionid(user.unionid)["userid"] == user.userid
    assert {row["userid"] for row in client.user.get_admin()} == set(tenant.admins)
    assert client.user.get_org_user_count(False) == 600 - len(tenant.inactive)
    assert client.user.get_org_user_count(True) == 600
    assert client.user.get_admin_scope(user.userid) == [ROOT]
    assert client.user.auth_scopes()["auth_org_scopes"]["authed_dept"] == [ROOT]


def test_walks_roles(sim: Simulator, client: Any) -> None:
    tenant = sim.tenants[CORP]
    groups = client.role.list(size=200)["list"]
    assert {role["id"] for group in groups for role in group["roles"]} == set(tenant.roles.rows)
    for role_id in list(tenant.roles.rows)[:5]:
        members = client.role.simplelist(role_id, size=100)["list"]
        assert {row["userid"] for row in members} <= set(tenant.holders[role_id])
    group_id = next(iter(tenant.role_groups.rows))
    assert client.role.getrolegroup(group_id)["group_name"] == tenant.role_groups.rows[group_id].name


def test_todays_paths_through_the_same_client(sim: Simulator, client: Any) -> None:
    rows = client.post("/topapi/v2/department/listsub", {"dept_id": ROOT})["result"]
    assert {row["dept_id"] for row in rows} == set(sim.tenants[CORP].children[ROOT])


def test_gets_a_new_token_by_itself(api: Api, client: Any) -> None:
    client.department.get(ROOT)
    api.control("PUT", "/faults", {"expire_tokens": True})
    assert client.department.get(ROOT)["id"] == ROOT


def test_errors_reach_the_client(client: Any) -> None:
    for call in (lambda: client.user.get("nobody"), lambda: client.department.get(5), lambda: client.role.getrole(5)):
        with pytest.raises(DingTalkClientException):
            call()


def test_registers_a_callback(client: Any) -> None:
    receiver = Receiver(CORP)
    try:
        client.callback.register_call_back(["user_add_org"], TOKEN, AES_KEY, receiver.url)
        assert client.callback.get_call_back()["url"] == receiver.url
        assert client.callback.get_call_back_failed_result()["failed_list"] == []
        client.callback.delete_call_back()
    finally:
        receiver.close()
