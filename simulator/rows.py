"""What a suite gets instead of contact events: rows of whole entities, SyncHTTP (events.md §3). Pure: no I/O."""

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

from simulator.apps import App
from simulator.events import Event, Payload
from simulator.model import Department, Role, User
from simulator.tenant import Tenant, View

Body = dict[str, Any]

HIGH = "SYNC_HTTP_PUSH_HIGH"
MEDIUM = "SYNC_HTTP_PUSH_MEDIUM"
#: biz_type of each kind of row.
TICKET, AUTHORIZATION, MICRO_APP, USER, DEPARTMENT, ROLE, CORP = 2, 4, 7, 13, 14, 15, 16

#: syncAction of a user row, by the contact event that made it.
_USER_ACTIONS = {
    "user_add_org": "user_add_org",
    "user_modify_org": "user_modify_org",
    "user_leave_org": "user_leave_org",
    "user_active_org": "user_active_org",
    "org_admin_add": "user_modify_org",
    "org_admin_remove": "user_modify_org",
    "label_user_change": "user_role_change",
}
_ROLE_ACTIONS = {
    "label_conf_add": "org_role_add",
    "label_conf_modify": "org_role_modify",
    "label_conf_del": "org_role_remove",
}


class RowMaker:
    """Numbers the rows of one simulator: `id` and `syncSeq` only grow."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def row(self, app: App, corp_id: str, biz_id: str, biz_type: int, data: Body) -> Payload:
        """One row; biz_data is JSON text."""
        number, now = next(self._ids), time.time_ns() // 1_000_000
        data = data | {"syncSeq": f"{now * 4096 + number % 4096:016X}"}
        return {
            "id": number,
            "gmt_create": now,
            "gmt_modified": now,
            "subscribe_id": f"{suite_id(app)}_0",
            "corp_id": corp_id,
            "biz_id": biz_id,
            "biz_type": biz_type,
            "biz_data": json.dumps(data, ensure_ascii=False),
            "open_cursor": 0,
            "status": 0,
        }

    def contact_rows(self, event: Event, tenant: Tenant, app: App) -> list[Payload]:
        """The rows of one contact event, as the organisation is now."""
        return [
            self.row(app, tenant.corp_id, biz_id, biz_type, data)
            for biz_id, biz_type, data in _entities(event, tenant, app)
        ]


def envelope(kind: str, rows: list[Payload]) -> Payload:
    return {"EventType": kind, "bizData": rows}


def suite_id(app: App) -> str:
    """A suite's numeric id, which is not its key."""
    return str(int(hashlib.sha256(app.client_id.encode()).hexdigest()[:6], 16) + 10_000_000)


def _entities(event: Event, tenant: Tenant, app: App) -> Iterator[tuple[str, int, Body]]:
    view = View(tenant)
    if event.type in _USER_ACTIONS:
        for userid in event.users:
            yield userid, USER, _user_data(view, app, userid, _USER_ACTIONS[event.type])
    elif event.departments:
        for dept_id in event.departments:
            yield str(dept_id), DEPARTMENT, _department_data(view, view.department(dept_id), event.type)
    elif event.type in _ROLE_ACTIONS:
        action = _ROLE_ACTIONS[event.type]
        for role_id in _role_ids(view, event):
            yield str(role_id), ROLE, _role_data(view, view.role(role_id), action)
    else:
        action = "org_remove" if event.type == "org_remove" else "org_update"
        yield tenant.corp_id, CORP, {"corpid": tenant.corp_id, "corp_name": tenant.name, "syncAction": action}


def _user_data(view: View, app: App, userid: str, action: str) -> Body:
    user = view.user(userid)
    if user is None:
        return {"syncAction": "user_leave_org", "userId": userid}
    if not _visible(view, app, user):
        # DingTalk pushes the row of someone outside the scope with this code in it.
        return {"syncAction": action, "errcode": 50002, "errmsg": "企业员工不在授权范围", "userid": userid}
    shown: dict[str, Any] = {
        "syncAction": action,
        "errcode": 0,
        "errmsg": "ok",
        "userid": user.userid,
        "unionid": user.unionid,
        "openId": f"open{user.unionid}",
        "dingId": f"$:LWCP_v1:${user.unionid[:20]}",
        "name": user.name,
        "jobnumber": user.job_number,
        "position": user.title,
        "department": [row.dept_id for row in user.departments],
        "isLeaderInDepts": _map((row.dept_id, str(row.leader).lower()) for row in user.departments),
        "orderInDepts": _map((row.dept_id, row.order) for row in user.departments),
        "roles": _roles(view, user),
        "isAdmin": user.admin_level > 0,
        "isBoss": user.boss,
        "isSenior": user.senior,
        "isHide": user.hide_mobile,
        "active": user.active,
        "avatar": user.avatar or "",
        "managerUserid": user.manager_userid or "",
        "tags": {},
        "realAuthed": user.real_authed,
        "exclusiveAccount": False,
        "unionEmpExt": {},
    }
    return shown


def _visible(view: View, app: App, user: User) -> bool:
    access = app.corps[view.tenant.corp_id].access
    granted = set(access.authed_dept)
    covered = any(not granted.isdisjoint(view.ancestors(row.dept_id)) for row in user.departments)
    return covered or user.userid in access.authed_user


def _map(pairs: Iterable[tuple[int, object]]) -> str:
    """The number-keyed maps of user rows, which are no JSON: `{123:456}`."""
    return "{" + ",".join(f"{key}:{value}" for key, value in pairs) + "}"


def _roles(view: View, user: User) -> list[Body]:
    roles = [role for row in user.roles if (role := view.role(row.role_id))]
    return [{"id": role.role_id, "name": role.name, "groupName": _group_name(view, role), "type": 1} for role in roles]


def _department_data(view: View, department: Department | None, action: str) -> Body:
    if department is None:
        return {"syncAction": "org_dept_remove"}
    managers = view.managers(department.dept_id)
    shown: Body = {
        "syncAction": action,
        "errcode": 0,
        "errmsg": "ok",
        "id": department.dept_id,
        "name": department.name,
        "order": department.order,
        "createDeptGroup": department.create_dept_group,
        "autoAddUser": department.auto_add_user,
        "deptHiding": False,
        "outerDept": False,
        "orgDeptOwner": managers[0] if managers else "",
        "deptManagerUseridList": "|".join(managers),
        "deptPermits": "",
        "userPermits": "",
        "outerPermitUsers": "",
        "outerPermitDepts": "",
        "groupContainSubDept": False,
        "autoApproveApply": False,
    }
    return shown if department.parent_id is None else shown | {"parentid": department.parent_id}


def _role_ids(view: View, event: Event) -> list[int]:
    """The roles of a role event; one of a whole group counts for each of its roles."""
    if event.type == "label_conf_del":
        return list(event.roles_gone)
    grouped = [role.role_id for label in event.labels for role in view.roles_of(label)]
    return [label for label in event.labels if view.role(label)] + grouped


def _role_data(view: View, role: Role | None, action: str) -> Body:
    if role is None:
        return {"syncAction": "org_role_remove"}
    return {
        "syncAction": action,
        "role_id": role.role_id,
        "role_name": role.name,
        "group_id": role.group_id,
        "group_name": _group_name(view, role),
    }


def _group_name(view: View, role: Role) -> str:
    group = view.role_group(role.group_id)
    return group.name if group else ""
