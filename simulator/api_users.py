"""The user calls (api.md §2)."""

from collections.abc import Callable
from datetime import UTC, datetime

from simulator.call import Body, Call, Route, known_department, visible_department, visible_user
from simulator.errors import ApiError, NewStyleError
from simulator.model import ROOT, Membership, User
from simulator.tenant import View

#: Fields that third-party apps never get (KB-A/0056).
NEVER_FOR_SUITES = frozenset(
    {
        "mobile",
        "state_code",
        "telephone",
        "email",
        "org_email",
        "work_place",
        "remark",
        "extension",
        "hired_date",
    }
)
#: Fields by the permission they need (KB-A/0056).
FIELDS_OF = {
    "mobile": frozenset({"mobile", "state_code"}),
    "personal": frozenset({"email", "org_email", "work_place", "remark", "extension"}),
}
ORDERS = ("entry_asc", "entry_desc", "modify_asc", "modify_desc", "custom")


def hidden_fields(call: Call) -> frozenset[str]:
    """The user fields that this app's answers leave out."""
    if call.app.is_suite:
        return NEVER_FOR_SUITES
    missing = [fields for name, fields in FIELDS_OF.items() if name not in call.access.permissions]
    return frozenset().union(*missing)


def user_get(call: Call) -> Body:
    view = call.view
    user = visible_user(call, view, call.params.text("userid"))
    shown = _common(user) | {
        "manager_userid": user.manager_userid,
        "dept_order_list": [{"dept_id": row.dept_id, "order": row.order} for row in user.departments],
        "leader_in_dept": [{"dept_id": row.dept_id, "leader": row.leader} for row in user.departments],
        "role_list": _role_list(view, user),
        "real_authed": user.real_authed,
        "senior": user.senior,
        "union_emp_ext": {},
    }
    return {"result": _present(call, shown)}


def user_list(call: Call) -> Body:
    view = call.view
    dept_id = call.params.integer("dept_id", 40035)
    cursor = call.params.within("cursor", 0, 2**53, 40035)
    size = call.params.within("size", 1, 100, 40035)
    visible_department(call, view, dept_id)
    members = ordered_members(view, dept_id, call.params.text("order_field", 40035, "custom"), 40035)
    page = [
        _present(call, _common(user) | {"dept_order": row.order, "leader": row.leader})
        for user, row in members[cursor : cursor + size]
    ]
    return {"result": _page(page, cursor + size, len(members))}


def user_listsimple(call: Call) -> Body:
    view = call.view
    cursor = call.params.within("cursor", 0, 2**53, 40068)
    size = call.params.within("size", 1, 100, 40069)
    dept_id = call.params.integer("dept_id")
    visible_department(call, view, dept_id)
    members = ordered_members(view, dept_id, call.params.text("order_field", 400002, "custom"), 400002)
    page = [{"userid": user.userid, "name": user.name} for user, _ in members[cursor : cursor + size]]
    return {"result": _page(page, cursor + size, len(members))}


def user_listid(call: Call) -> Body:
    """Not limited by the app's scope (KB-A/0065)."""
    view = call.view
    dept_id = known_department(view, call.params.integer("dept_id")).dept_id
    return {"result": {"userid_list": [user.userid for user in view.members(dept_id)]}}


def user_listadmin(call: Call) -> Body:
    """Not limited by the app's scope (KB-A/0068)."""
    return {"result": [{"userid": user.userid, "sys_level": user.admin_level} for user in call.view.admins()]}


def user_get_admin_scope(call: Call) -> Body:
    user = call.view.user(call.params.text("userid", 40036))
    if user is None:
        raise ApiError(60121)
    return {"dept_ids": [ROOT] if user.admin_level else []}


def emp_leave_records(call: Call) -> Body:
    """Whoever left between startTime and endTime and is not back (KB-A/0073)."""
    start = _moment(call.params.optional("startTime"))
    end = _moment(call.params.optional("endTime") or datetime.now(UTC).isoformat())
    offset = _count(call.params.optional("nextToken") or "0", 0, 2**53)
    size = _count(call.params.optional("maxResults"), 1, 50)
    left = [row for row in call.tenant.leavers.values() if start <= row.left_at <= end]
    records = [
        {
            "userId": row.user.userid,
            "name": row.user.name,
            "stateCode": row.user.state_code,
            "mobile": row.user.mobile,
            "leaveTime": datetime.fromtimestamp(row.left_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "leaveReason": row.reason,
        }
        for row in left[offset : offset + size]
    ]
    return {"records": records} | ({"nextToken": str(offset + size)} if offset + size < len(left) else {})


def contact_user(call: Call) -> Body:
    """The personal part of a user (KB-A/0054); here any token of the corp stands for the user's own."""
    userid = call.tenant.unionids.get(call.path["union_id"])
    user = call.view.user(userid) if userid else None
    if user is None:
        raise NewStyleError(404, "invalidParameter.user.notFound", "找不到该用户")
    shown = {
        "nick": user.name,
        "avatarUrl": user.avatar or "",
        "openId": f"open{user.unionid}",
        "unionId": user.unionid,
    }
    if "mobile" in hidden_fields(call):
        return shown
    return shown | {"mobile": user.mobile, "stateCode": user.state_code, "email": user.email}


def _common(user: User) -> Body:
    """What user/get and user/list share; None is left out."""
    return {
        "userid": user.userid,
        "unionid": user.unionid,
        "name": user.name,
        "avatar": user.avatar,
        "state_code": user.state_code,
        "mobile": user.mobile,
        "hide_mobile": user.hide_mobile,
        "telephone": user.telephone,
        "job_number": user.job_number,
        "title": user.title,
        "email": user.email,
        "org_email": user.org_email,
        "work_place": user.work_place,
        "remark": user.remark,
        "exclusive_account": False,
        "dept_id_list": [row.dept_id for row in user.departments],
        "extension": user.extension,
        "hired_date": user.hired_date,
        "active": user.active,
        "admin": user.admin_level > 0,
        "boss": user.boss,
    }


def _present(call: Call, shown: Body) -> Body:
    hidden = hidden_fields(call)
    return {name: value for name, value in shown.items() if value is not None and name not in hidden}


def _role_list(view: View, user: User) -> list[Body]:
    roles = [role for row in user.roles if (role := view.role(row.role_id))]
    groups = {role.group_id: view.role_group(role.group_id) for role in roles}
    return [
        {"id": role.role_id, "name": role.name, "group_name": group.name if (group := groups[role.group_id]) else ""}
        for role in roles
    ]


def ordered_members(view: View, dept_id: int, order: str, errcode: int) -> list[tuple[User, Membership]]:
    """Members with their row; "custom" is the place in the list, the highest first, and the rest goes by entry."""
    if order not in ORDERS:
        raise ApiError(errcode)
    members = [(user, row) for user in view.members(dept_id) if (row := user.membership(dept_id))]
    if order == "custom":
        return sorted(members, key=lambda member: -member[1].order)
    return members[::-1] if order.endswith("desc") else members


def _page(rows: list[Body], following: int, total: int) -> Body:
    """next_cursor is there only while there is more."""
    more = following < total
    return {"has_more": more, "list": rows} | ({"next_cursor": following} if more else {})


def _moment(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise NewStyleError(400, "invalidParameter.param.invalid", f"入参错误：{text}") from None


def _count(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise NewStyleError(400, "invalidParameter.param.invalid", f"入参错误：{text}")
    return int(text)


def _route(path: str, handler: Callable[[Call], Body], permission: str = "qyapi_get_member") -> Route:
    return Route(path, handler, permission=permission)


ROUTES = (
    _route("/topapi/v2/user/get", user_get),
    _route("/topapi/v2/user/list", user_list, "qyapi_get_department_member"),
    _route("/topapi/user/listsimple", user_listsimple, "qyapi_get_department_member"),
    _route("/topapi/user/listid", user_listid, "qyapi_get_department_member"),
    _route("/topapi/user/listadmin", user_listadmin),
    _route("/topapi/user/get_admin_scope", user_get_admin_scope),
    Route("/v1.0/contact/empLeaveRecords", emp_leave_records, "GET", style="new"),
    Route("/v1.0/contact/users/<union_id>", contact_user, "GET", style="new"),
)
