"""What a suite is pushed: rows whose biz_data is JSON text, in the old names."""

import json
import re
from typing import Any

import pytest

from simulator.events import CONTACT_EVENTS
from simulator.server import Simulator


def rows(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for callback in made for row in callback["payload"]["bizData"]]


@pytest.mark.parametrize("kind", CONTACT_EVENTS)
def test_each_change_makes_rows(sim: Simulator, kind: str) -> None:
    made = sim.change("shop", kind)
    assert {row["payload"]["EventType"] for row in made} == {"SYNC_HTTP_PUSH_MEDIUM"}
    assert {row["generation"] for row in made} == {"rows"}
    for row in rows(made):
        assert row["corp_id"] == sim.app("shop").corp_id and row["subscribe_id"].endswith("_0")
        assert row["biz_type"] in (13, 14, 15, 16) and isinstance(row["biz_id"], str)
        data = json.loads(row["biz_data"])
        assert data["syncAction"] and re.fullmatch("[0-9A-F]{16}", data["syncSeq"])


def test_a_users_row_has_the_old_names_and_no_private_field(sim: Simulator) -> None:
    tenant = sim.tenants[sim.app("shop").corp_id]
    user = next(user for user in tenant.users.rows.values() if len(user.departments) > 1)
    made = rows(sim.change("shop", "user_modify_org", user.userid))
    data = json.loads(next(row["biz_data"] for row in made if row["biz_id"] == user.userid))
    user = tenant.users.rows[user.userid]
    assert data["department"] == [row.dept_id for row in user.departments]
    assert dict(re.findall(r"(\d+):(\w+)", data["orderInDepts"])) == {
        str(row.dept_id): str(row.order) for row in user.departments
    }
    assert not {"mobile", "stateCode", "email", "hiredDate"} & set(data)


def test_who_is_gone_or_out_of_scope(sim: Simulator) -> None:
    tenant = sim.tenants[sim.app("shop").corp_id]
    first, second = [user.userid for user in tenant.users.rows.values() if not user.admin_level][:2]
    left = rows(sim.change("shop", "user_leave_org", first))[0]
    assert left["biz_id"] == first and json.loads(left["biz_data"])["syncAction"] == "user_leave_org"
    sim.app("shop").access.authed_dept = ()
    hidden = rows(sim.change("shop", "user_modify_org", second))[0]
    assert json.loads(hidden["biz_data"])["errcode"] == 50002


def test_deleting_a_group_removes_its_roles(sim: Simulator) -> None:
    tenant = sim.tenants[sim.app("shop").corp_id]
    group_id = list(tenant.role_groups.rows)[1]
    role_ids = [str(role_id) for role_id in tenant.group_roles[group_id]]
    made = rows(sim.change("shop", "label_conf_del", group_id))
    assert [row["biz_id"] for row in made] == role_ids
    assert {json.loads(row["biz_data"])["syncAction"] for row in made} == {"org_role_remove"}


def test_suite_events_as_rows(sim: Simulator) -> None:
    expected = {"suite_ticket": (2, "suite_ticket"), "tmp_auth_code": (4, "org_suite_auth")}
    expected |= {"change_auth": (4, "org_suite_change"), "org_micro_app_stop": (7, "org_micro_app_stop")}
    expected |= {"org_micro_app_restore": (7, "org_micro_app_restore"), "suite_relieve": (4, "org_suite_relieve")}
    for event, (biz_type, action) in expected.items():
        message = sim.push("shop", event, rows=True)["payload"]
        row = message["bizData"][0]
        assert message["EventType"] == "SYNC_HTTP_PUSH_HIGH" and row["biz_type"] == biz_type
        data = json.loads(row["biz_data"])
        assert data["syncAction"] == action
        if biz_type == 4 and action != "org_suite_relieve":
            assert data["auth_scope"]["auth_org_scopes"]["authed_dept"] == [1] and data["permanent_code"]
