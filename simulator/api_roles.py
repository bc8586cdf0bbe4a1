"""The role calls, with the mixed casing that DingTalk has (api.md §4)."""

from simulator.call import Body, Call, Route
from simulator.errors import ApiError
from simulator.model import RoleHolding, User
from simulator.tenant import View


def role_list(call: Call) -> Body:
    """Pages count groups (KB-A/0089)."""
    view = call.view
    size = call.params.within("size", 1, 200, 40069, 20)
    offset = call.params.within("offset", 0, 2**53, 40068, 0)
    groups = view.role_groups()
    shown = [
        {
            "groupId": group.group_id,
            "name": group.name,
            "roles": [{"id": role.role_id, "name": role.name} for role in view.roles_of(group.group_id)],
        }
        for group in groups[offset : offset + size]
    ]
    return {"result": {"hasMore": offset + size < len(groups), "list": shown}}


def role_simplelist(call: Call) -> Body:
    view = call.view
    role_id = call.params.integer("role_id")
    size = call.params.within("size", 1, 100, 40069, 20)
    offset = call.params.within("offset", 0, 2**53, 40068, 0)
    if view.role(role_id) is None:
        raise ApiError(33011)
    holders = view.holders(role_id)
    shown = [
        {"userid": user.userid, "name": user.name, "manageScopes": _scopes(view, user, role_id)}
        for user in holders[offset : offset + size]
    ]
    return {"result": {"hasMore": offset + size < len(holders), "list": shown}}


def role_getrole(call: Call) -> Body:
    """The id of a role group is no role: 33011, as for any unknown id (KB-A/0090)."""
    role = call.view.role(call.params.integer("roleId", 33011))
    if role is None:
        raise ApiError(33011)
    return {"role": {"name": role.name, "groupId": role.group_id}}


def role_getrolegroup(call: Call) -> Body:
    """An unknown group answers 400002 (KB-A/0092)."""
    view = call.view
    group = view.role_group(call.params.integer("group_id"))
    if group is None:
        raise ApiError(400002)
    roles = [{"role_id": role.role_id, "role_name": role.name} for role in view.roles_of(group.group_id)]
    return {"role_group": {"group_name": group.name, "roles": roles}}


def _scopes(view: View, user: User, role_id: int) -> list[Body]:
    held: RoleHolding = next(row for row in user.roles if row.role_id == role_id)
    found = [department for dept_id in held.scopes if (department := view.department(dept_id))]
    return [{"dept_id": department.dept_id, "name": department.name} for department in found]


ROUTES = (
    Route("/topapi/role/list", role_list, permission="qyapi_base"),
    Route("/topapi/role/simplelist", role_simplelist, permission="qyapi_base"),
    Route("/topapi/role/getrole", role_getrole, permission="qyapi_base"),
    Route("/topapi/role/getrolegroup", role_getrolegroup, permission="qyapi_base"),
)
