"""Every kind of change alters the truth and tells of it in both generations; no change breaks the organisation."""

import json
from typing import Any

import pytest

from simulator.changes import WEIGHTS, Changes
from simulator.edit import ImpossibleChange
from simulator.events import CONTACT_EVENTS, payload
from simulator.model import ROOT
from simulator.seed import organisation
from simulator.tenant import Tenant, View
from simulator.truth import truth

#: Every key a payload may have besides the envelope, by kind and generation (events.md §1).
USER_KEYS = {"A": {"UserId", "OptStaffId"}, "B": {"userId", "timeStamp", "diffInfo", "optStaffId"}}
EXTRA: dict[str, dict[str, set[str]]] = {
    "user_add_org": USER_KEYS,
    "user_modify_org": USER_KEYS,
    "user_leave_org": USER_KEYS,
    "user_active_org": {"A": {"UserId"}, "B": {"userId"}},
    "org_admin_add": {"A": {"UserId"}, "B": {"userId", "timeStamp"}},
    "org_admin_remove": {"A": {"UserId"}, "B": {"userId", "timeStamp"}},
    "org_dept_create": {"A": {"DeptId"}, "B": {"deptId"}},
    "org_dept_modify": {"A": {"DeptId"}, "B": {"deptId"}},
    "org_dept_remove": {"A": {"DeptId"}, "B": {"deptId"}},
    "org_change": {"A": set(), "B": set()},
    "org_remove": {"A": set(), "B": set()},
    "label_user_change": {
        "A": {"UserIdList", "LabelIdList", "action"},
        "B": {"userIdList", "labelIdList", "action"},
    },
    "label_conf_add": {"A": {"LabelIdList", "scope"}, "B": {"labelIdList", "scope"}},
    "label_conf_modify": {
        "A": {"LabelIdList", "scope", "PreLabelList", "PostLabelList"},
        "B": {"labelIdList", "scope", "preLabelList", "postLabelList"},
    },
    "label_conf_del": {"A": {"LabelIdList", "scope"}, "B": {"labelIdList"}},
}
ENVELOPE = {
    "A": {"EventType": str, "CorpId": str, "TimeStamp": str},
    "B": {"EventType": str, "CorpId": str, "EventTime": int, "BizId": str, "eventId": str},
}


def unchanged(before: dict[str, Any], tenant: Tenant) -> bool:
    return json.dumps(before, sort_keys=True) == json.dumps(truth(tenant), sort_keys=True)


def whole(tenant: Tenant) -> None:
    """Assert that every reference leads somewhere."""
    view = View(tenant)
    assert all(view.ancestors(dept_id)[-1] == ROOT for dept_id in tenant.departments.rows)
    for user in tenant.users.rows.values():
        assert user.departments and len({row.dept_id for row in user.departments}) == len(user.departments)
        assert all(row.dept_id in tenant.departments.rows for row in user.departments)
        assert all(row.role_id in tenant.roles.rows for row in user.roles)
        assert all(dept_id in tenant.departments.rows for row in user.roles for dept_id in row.scopes)
        assert user.manager_userid is None or user.manager_userid in tenant.users.rows
    assert all(role.group_id in tenant.role_groups.rows for role in tenant.roles.rows.values())
    assert len(view.admins()) == len(tenant.admins) >= 1


@pytest.mark.parametrize("kind", CONTACT_EVENTS)
@pytest.mark.parametrize("seed", range(5))
def test_each_kind_changes_the_truth_and_tells(kind: str, seed: int) -> None:
    tenant = organisation("corp", 80, str(seed))
    before = truth(tenant)
    events = Changes(tenant, str(seed)).make(kind)
    assert not unchanged(before, tenant) or kind in ("user_modify_org", "label_user_change")
    assert kind in {event.type for event in events}
    whole(tenant)
    for event in events:
        for generation in ("A", "B"):
            told = payload(event, "corp", generation)  # type: ignore[arg-type]
            envelope = ENVELOPE[generation]
            assert {name: type(told.pop(name)) for name in envelope} == envelope  # type: ignore[attr-defined]
            assert set(told) <= EXTRA[event.type][generation]
            needed = EXTRA[event.type][generation] - {"OptStaffId", "optStaffId", "diffInfo"}
            assert needed <= set(told)


def test_named_entities() -> None:
    tenant = organisation("corp", 80, "1")
    changes = Changes(tenant, "1")
    users = list(tenant.users.rows)
    dept_id = list(tenant.departments.rows)[2]
    role_id = list(tenant.roles.rows)[1]
    group_id = list(tenant.role_groups.rows)[1]
    assert changes.make("user_modify_org", users[5])[0].users == (users[5],)
    assert changes.make("user_leave_org", users[6])[0].users == (users[6],)
    assert users[6] not in tenant.users.rows and users[6] in tenant.leavers
    assert changes.make("user_add_org", users[6])[0].users == (users[6],)
    assert users[6] in tenant.users.rows and users[6] not in tenant.leavers
    assert changes.make("org_dept_modify", dept_id)
    assert changes.make("org_dept_remove", str(dept_id))[-1].departments == (dept_id,)
    assert changes.make("label_user_change", role_id)[0].labels[0] == role_id
    assert changes.make("label_conf_modify", group_id)[0].labels == (group_id,)
    gone = [role.role_id for role in View(tenant).roles_of(group_id)]
    assert changes.make("label_conf_del", group_id)[0].roles_gone == tuple(gone)
    assert not any(user.holds(role) for user in tenant.users.rows.values() for role in gone)
    assert [event.type for event in changes.make("org_change")] == ["org_change", "org_dept_modify"]
    whole(tenant)


def test_whoever_leaves_is_nobodys_manager_and_each_report_is_told_of() -> None:
    tenant = organisation("corp", 300, "1")
    admins = set(tenant.admins)
    manager, reports = max(
        ((userid, set(rows)) for userid, rows in tenant.reports.items() if userid not in admins),
        key=lambda row: len(row[1]),
    )
    events = Changes(tenant, "1").make("user_leave_org", manager)
    told = {userid for event in events if event.type == "user_modify_org" for userid in event.users}
    assert reports and told == reports


def test_a_department_is_emptied_before_it_goes() -> None:
    tenant = organisation("corp", 300, "1")
    parent = next(key for key in tenant.departments.rows if key != ROOT and tenant.children.get(key))
    children, members = set(tenant.children[parent]), set(tenant.members[parent])
    events = Changes(tenant, "1").make("org_dept_remove", parent)
    assert children <= {dept_id for event in events for dept_id in event.departments}
    assert members == {userid for event in events if event.type == "user_modify_org" for userid in event.users}
    assert events[-1].type == "org_dept_remove"
    whole(tenant)


@pytest.mark.parametrize(
    ("kind", "entity"),
    [
        ("user_modify_org", "nobody"),
        ("user_add_org", None),
        ("user_leave_org", None),
        ("org_admin_remove", "nobody"),
        ("org_dept_modify", 5),
        ("org_dept_remove", ROOT),
        ("org_dept_create", ROOT),
        ("label_user_change", 5),
        ("label_conf_modify", 5),
        ("label_conf_del", 5),
        ("label_conf_del", "five"),
        ("no_such_event", None),
    ],
)
def test_the_impossible_is_refused_and_changes_nothing(kind: str, entity: str | int | None) -> None:
    tenant = organisation("corp", 30, "1")
    before = truth(tenant)
    if kind in ("user_add_org", "user_leave_org"):
        entity = next(iter(tenant.users.rows))
    with pytest.raises(ImpossibleChange):
        Changes(tenant, "1").make(kind, entity)
    assert unchanged(before, tenant)


@pytest.mark.parametrize("people", [1, 60])
def test_random_changes_go_on_for_ever_and_never_dissolve(people: int) -> None:
    tenant = organisation("corp", people, "3")
    changes = Changes(tenant, "3")
    kinds = {event.type for _ in range(1500) for event in changes.make()}
    assert kinds == set(WEIGHTS) == set(CONTACT_EVENTS) - {"org_remove"}
    assert not tenant.dissolved
    whole(tenant)


def test_nothing_changes_after_the_end() -> None:
    changes = Changes(organisation("corp", 5, "1"), "1")
    changes.make("org_remove")
    with pytest.raises(ImpossibleChange, match="dissolved"):
        changes.make()
