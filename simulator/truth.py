"""The full state of an organisation, by the names of the datastore's tables. Pure: no I/O."""

from typing import Any

from simulator.model import User
from simulator.tenant import Tenant, View


def truth(tenant: Tenant) -> dict[str, Any]:
    """What a perfect copy holds: corp, users, departments, role_groups, roles; empty texts are None.

    hired_date is in ms. A user's departments are {dept_id, order, leader}, the roles are ids.
    """
    with tenant.lock:
        view = View(tenant)
        return {
            "corp": {
                "corp_id": tenant.corp_id,
                "name": tenant.name,
                "status": "dissolved" if tenant.dissolved else "active",
            },
            "users": [_user(user) for user in tenant.users.rows.values()],
            "departments": [
                {
                    "dept_id": row.dept_id,
                    "parent_id": row.parent_id,
                    "name": row.name,
                    "order": row.order,
                    "manager_userids": view.managers(row.dept_id),
                }
                for row in tenant.departments.rows.values()
            ],
            "role_groups": [{"group_id": row.group_id, "name": row.name} for row in tenant.role_groups.rows.values()],
            "roles": [
                {"role_id": row.role_id, "group_id": row.group_id, "name": row.name}
                for row in tenant.roles.rows.values()
            ],
        }


def _user(user: User) -> dict[str, Any]:
    return {
        "userid": user.userid,
        "unionid": user.unionid,
        "name": user.name,
        "title": user.title or None,
        "mobile": user.mobile or None,
        "email": user.email or None,
        "job_number": user.job_number or None,
        "manager_userid": user.manager_userid,
        "active": user.active,
        "admin": user.admin_level > 0,
        "admin_level": user.admin_level or None,
        "boss": user.boss,
        "senior": user.senior,
        "hired_date": user.hired_date,
        "departments": [{"dept_id": row.dept_id, "order": row.order, "leader": row.leader} for row in user.departments],
        "roles": [row.role_id for row in user.roles],
    }
