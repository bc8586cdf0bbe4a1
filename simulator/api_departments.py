"""The department calls and the app's scope (api.md §3, §5)."""

from simulator.api_users import hidden_fields
from simulator.call import Body, Call, Route, known_department, visible_department, visible_user
from simulator.model import ROOT, Department
from simulator.tenant import View

#: What /auth/scopes may name as readable user fields.
USER_FIELDS = (
    "name",
    "unionid",
    "title",
    "mobile",
    "email",
    "job_number",
    "avatar",
    "hired_date",
    "extension",
    "remark",
)


def department_get(call: Call) -> Body:
    view = call.view
    department = visible_department(call, view, call.params.integer("dept_id"))
    return {"result": _detail(view, department)}


def department_listsub(call: Call) -> Body:
    """One level, no paging (KB-A/0082)."""
    view = call.view
    parent = visible_department(call, view, call.params.integer("dept_id", default=ROOT))
    return {
        "result": [
            {
                "dept_id": row.dept_id,
                "name": row.name,
                "parent_id": row.parent_id,
                "create_dept_group": row.create_dept_group,
                "auto_add_user": row.auto_add_user,
            }
            for row in view.children(parent.dept_id)
        ]
    }


def department_listsubid(call: Call) -> Body:
    """One level; not limited by the app's scope (KB-A/0083)."""
    view = call.view
    parent = known_department(view, call.params.integer("dept_id"))
    return {"result": {"dept_id_list": [row.dept_id for row in view.children(parent.dept_id)]}}


def department_listparentbydept(call: Call) -> Body:
    view = call.view
    department = visible_department(call, view, call.params.integer("dept_id"))
    return {"result": {"parent_id_list": view.ancestors(department.dept_id)}}


def department_listparentbyuser(call: Call) -> Body:
    """One chain for each of the user's departments (KB-A/0085)."""
    view = call.view
    user = visible_user(call, view, call.params.text("userid"))
    chains = [{"parent_dept_id_list": view.ancestors(row.dept_id)} for row in user.departments]
    return {"result": {"parent_list": chains}}


def auth_scopes(call: Call) -> Body:
    access, hidden = call.access, hidden_fields(call)
    return {
        "auth_user_field": [name for name in USER_FIELDS if name not in hidden],
        "condition_field": [],
        "auth_org_scopes": {"authed_user": list(access.authed_user), "authed_dept": list(access.authed_dept)},
    }


def _detail(view: View, department: Department) -> Body:
    members, managers = view.members(department.dept_id), view.managers(department.dept_id)
    shown: Body = {
        "dept_id": department.dept_id,
        "name": department.name,
        "order": department.order,
        "create_dept_group": department.create_dept_group,
        "auto_add_user": department.auto_add_user,
        "dept_group_chat_id": f"chat{department.dept_id:032x}" if department.create_dept_group else "",
        "group_contain_sub_dept": False,
        "org_dept_owner": managers[0] if managers else "",
        "dept_manager_userid_list": managers,
        "outer_dept": False,
        "outer_permit_depts": [],
        "outer_permit_users": [],
        "hide_dept": False,
        "dept_permits": [],
        "user_permits": [],
        "source_identifier": "",
        "tags": "",
        "from_union_org": False,
        "code": "",
        "auto_approve_apply": False,
        "member_count": len(members),
        "owning_member_count": len(members),
        "union_dept_ext": {},
    }
    # The root has no parent_id at all (KB-A/0081).
    return shown if department.parent_id is None else shown | {"parent_id": department.parent_id}


_LIST = "qyapi_get_department_list"
ROUTES = (
    Route("/topapi/v2/department/get", department_get, permission=_LIST),
    Route("/topapi/v2/department/listsub", department_listsub, permission=_LIST),
    Route("/topapi/v2/department/listsubid", department_listsubid, permission=_LIST),
    Route("/topapi/v2/department/listparentbydept", department_listparentbydept, permission=_LIST),
    Route("/topapi/v2/department/listparentbyuser", department_listparentbyuser, permission=_LIST),
    Route("/auth/scopes", auth_scopes, "GET"),
)
