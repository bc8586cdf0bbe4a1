"""The first generation of contact calls and the TOP gateway, which older clients still walk.

Paths, parameters and reply keys as in the client of 007gzs/dingtalk-sdk (client/api), field names as in pushed rows.
"""

from collections.abc import Mapping

from simulator.api_departments import ROUTES as DEPARTMENTS
from simulator.api_roles import ROUTES as ROLES
from simulator.api_users import ROUTES as USERS
from simulator.api_users import hidden_fields, ordered_members
from simulator.call import Body, Call, Route, known_department, visible_department, visible_user
from simulator.errors import ApiError
from simulator.model import ROOT, Department, User
from simulator.tenant import View

#: The old names of fields that an app may be denied, by today's.
OLD_NAMES = {
    "mobile": "mobile",
    "state_code": "stateCode",
    "telephone": "tel",
    "email": "email",
    "org_email": "orgEmail",
    "work_place": "workPlace",
    "remark": "remark",
    "extension": "extattr",
    "hired_date": "hiredDate",
}
_TOPAPI: Mapping[str, Route] = {route.path: route for route in (*USERS, *DEPARTMENTS, *ROLES)}


def router_rest(call: Call) -> Body:
    """TOP: `dingtalk.oapi.role.list` or `dingtalk.corp.role.list` is /topapi/role/list, its answer under one key."""
    method = call.params.text("method")
    name = method.removeprefix("dingtalk.").removeprefix("oapi.").removeprefix("corp.")
    route = _TOPAPI.get("/topapi/" + name.replace(".", "/"))
    if route is None:
        raise ApiError(400002)
    answer = {"errcode": 0, "errmsg": "ok"} | route.handler(call)
    return {method.replace(".", "_") + "_response": answer}


def department_list_ids(call: Call) -> Body:
    view = call.view
    parent = known_department(view, call.params.integer("id", default=ROOT))
    return {"sub_dept_id_list": [row.dept_id for row in view.children(parent.dept_id)]}


def department_list(call: Call) -> Body:
    """One level, or with fetch_child all below, which third-party apps never get."""
    view = call.view
    found = view.children(visible_department(call, view, call.params.integer("id", default=ROOT)).dept_id)
    if call.params.flag("fetch_child") and not call.app.is_suite:
        for department in found:
            found.extend(view.children(department.dept_id))
    return {"department": [_brief(row) for row in found]}


def department_get(call: Call) -> Body:
    view = call.view
    department = visible_department(call, view, call.params.integer("id"))
    managers = view.managers(department.dept_id)
    return _brief(department) | {
        "order": department.order,
        "deptHiding": False,
        "deptPermits": "",
        "userPermits": "",
        "outerDept": False,
        "outerPermitDepts": "",
        "outerPermitUsers": "",
        "orgDeptOwner": managers[0] if managers else "",
        "deptManagerUseridList": "|".join(managers),
        "sourceIdentifier": "",
    }


def department_list_parent_depts_by_dept(call: Call) -> Body:
    view = call.view
    return {"parentIds": view.ancestors(visible_department(call, view, call.params.integer("id")).dept_id)}


def department_list_parent_depts(call: Call) -> Body:
    view = call.view
    user = visible_user(call, view, call.params.text("userId"))
    return {"department": [view.ancestors(row.dept_id) for row in user.departments]}


def user_get(call: Call) -> Body:
    view = call.view
    user = visible_user(call, view, call.params.text("userid"))
    roles = [role for row in user.roles if (role := view.role(row.role_id))]
    return _allowed(call, _user(user)) | {
        "isLeaderInDepts": _map({row.dept_id: str(row.leader).lower() for row in user.departments}),
        "orderInDepts": _map({row.dept_id: row.order for row in user.departments}),
        "isSenior": user.senior,
        "realAuthed": user.real_authed,
        "managerUserId": user.manager_userid or "",
        "roles": [{"id": role.role_id, "name": role.name, "groupName": _group(view, role.group_id)} for role in roles],
    }


def user_list(call: Call) -> Body:
    rows, more = _members(call)
    shown = [
        _allowed(call, _user(user)) | {"order": row.order, "isLeader": row.leader}
        for user in rows
        if (row := user.membership(call.params.integer("department_id")))
    ]
    return {"userlist": shown, "hasMore": more}


def user_simplelist(call: Call) -> Body:
    rows, more = _members(call)
    return {"userlist": [{"userid": user.userid, "name": user.name} for user in rows], "hasMore": more}


def user_get_dept_member(call: Call) -> Body:
    view = call.view
    department = known_department(view, call.params.integer("deptId"))
    return {"userIds": [user.userid for user in view.members(department.dept_id)]}


def user_get_admin(call: Call) -> Body:
    return {"admin_list": [{"userid": user.userid, "sys_level": user.admin_level} for user in call.view.admins()]}


def user_by_unionid(call: Call) -> Body:
    userid = call.tenant.unionids.get(call.params.text("unionid"))
    if userid is None:
        raise ApiError(60121)
    return {"userid": userid, "contactType": 0}


def user_count(call: Call) -> Body:
    """onlyActive 1 counts those who signed in, 0 everybody."""
    tenant = call.tenant
    inactive = len(tenant.inactive) if call.params.integer("onlyActive", default=0) else 0
    return {"count": len(tenant.everyone) - inactive}


def _members(call: Call) -> tuple[list[User], bool]:
    view = call.view
    dept_id = visible_department(call, view, call.params.integer("department_id")).dept_id
    offset = call.params.within("offset", 0, 2**53, 40068, 0)
    size = call.params.within("size", 1, 100, 40069, 100)
    found = [user for user, _ in ordered_members(view, dept_id, call.params.text("order", 40035, "custom"), 40035)]
    return found[offset : offset + size], offset + size < len(found)


def _brief(department: Department) -> Body:
    shown = {
        "id": department.dept_id,
        "name": department.name,
        "createDeptGroup": department.create_dept_group,
        "autoAddUser": department.auto_add_user,
    }
    return shown if department.parent_id is None else shown | {"parentid": department.parent_id}


def _user(user: User) -> Body:
    return {
        "userid": user.userid,
        "unionid": user.unionid,
        "name": user.name,
        "avatar": user.avatar or "",
        "stateCode": user.state_code,
        "mobile": user.mobile,
        "isHide": user.hide_mobile,
        "tel": user.telephone,
        "jobnumber": user.job_number,
        "position": user.title,
        "email": user.email,
        "orgEmail": user.org_email,
        "workPlace": user.work_place,
        "remark": user.remark,
        "department": [row.dept_id for row in user.departments],
        "extattr": user.extension or "",
        "hiredDate": user.hired_date,
        "active": user.active,
        "isAdmin": user.admin_level > 0,
        "isBoss": user.boss,
    }


def _allowed(call: Call, shown: Body) -> Body:
    hidden = {OLD_NAMES[name] for name in hidden_fields(call)}
    return {name: value for name, value in shown.items() if value is not None and name not in hidden}


def _map(values: Mapping[int, object]) -> str:
    """Number-keyed maps, which are no JSON: `{123:456}`."""
    return "{" + ",".join(f"{key}:{value}" for key, value in values.items()) + "}"


def _group(view: View, group_id: int) -> str:
    group = view.role_group(group_id)
    return group.name if group else ""


ROUTES = (
    Route("/router/rest", router_rest, token_name="session"),  # noqa: S106 - a parameter's name
    Route("/department/list_ids", department_list_ids, "GET"),
    Route("/department/list", department_list, "GET"),
    Route("/department/get", department_get, "GET"),
    Route("/department/list_parent_depts_by_dept", department_list_parent_depts_by_dept, "GET"),
    Route("/department/list_parent_depts", department_list_parent_depts, "GET"),
    Route("/user/get", user_get, "GET"),
    Route("/user/list", user_list, "GET"),
    Route("/user/listbypage", user_list, "GET"),
    Route("/user/simplelist", user_simplelist, "GET"),
    Route("/user/getDeptMember", user_get_dept_member, "GET"),
    Route("/user/get_admin", user_get_admin, "GET"),
    Route("/user/getUseridByUnionid", user_by_unionid, "GET"),
    Route("/user/get_org_user_count", user_count, "GET"),
)
