"""Indexes follow every write, and a stale view shows the organisation as it was."""

from dataclasses import replace

from simulator.model import Department, Membership, RoleHolding
from simulator.seed import organisation
from simulator.tenant import Pool, Tenant, View

STALE = 60.0


def a_tenant() -> Tenant:
    return organisation("c", 40, "1")


def test_a_pool_is_a_set() -> None:
    pool: Pool[int] = Pool()
    for item in (1, 2, 3, 2):
        pool.put(item, True)
    pool.put(1, False)
    pool.put(9, False)
    assert sorted(pool) == [2, 3] and len(pool) == 2 and 3 in pool and 1 not in pool


def test_a_stale_view_sees_a_user_as_before() -> None:
    tenant = a_tenant()
    user = next(iter(tenant.users.rows.values()))
    tenant.put_user(replace(user, name="新"))
    tenant.put_user(replace(user, name="更新"))
    assert View(tenant, STALE).user(user.userid) == user
    found = View(tenant).user(user.userid)
    assert found is not None and found.name == "更新"


def test_a_stale_view_still_has_who_left_and_not_yet_who_joined() -> None:
    tenant = a_tenant()
    gone = next(iter(tenant.users.rows.values()))
    tenant.drop_user(gone.userid)
    tenant.put_user(replace(gone, userid="new", unionid="new"))
    dept_id = gone.departments[0].dept_id
    stale, present = View(tenant, STALE), View(tenant)
    assert gone.userid in [user.userid for user in stale.members(dept_id)]
    assert "new" not in [user.userid for user in stale.members(dept_id)]
    assert "new" in [user.userid for user in present.members(dept_id)]
    assert gone in stale.admins() and gone not in present.admins()


def test_a_stale_view_of_departments_and_roles() -> None:
    tenant = a_tenant()
    first, second = list(tenant.departments.rows.values())[1:3]
    moved = replace(second, parent_id=1)
    tenant.put_department(moved)
    assert second in View(tenant, STALE).children(first.dept_id) and moved in View(tenant).children(1)
    role = next(iter(tenant.roles.rows.values()))
    user = next(user for user in tenant.users.rows.values() if not user.holds(role.role_id))
    tenant.put_user(replace(user, roles=(RoleHolding(role.role_id, ()),)))
    tenant.put_role(replace(role, name="x"))
    assert user.userid not in [row.userid for row in View(tenant, STALE).holders(role.role_id)]
    assert user.userid in [row.userid for row in View(tenant).holders(role.role_id)]
    assert role in View(tenant, STALE).roles_of(role.group_id)
    tenant.drop_role_group(role.group_id)
    assert role.group_id in [group.group_id for group in View(tenant, STALE).role_groups()]
    assert View(tenant).role_group(role.group_id) is None


def test_indexes_follow() -> None:
    tenant = a_tenant()
    user = next(iter(tenant.users.rows.values()))
    tenant.put_department(Department(77, 1, "x", 1))
    tenant.put_user(replace(user, departments=(Membership(77, 1, True),), active=False, admin_level=0))
    assert View(tenant).managers(77) == [user.userid]
    assert user.userid in tenant.inactive and user.userid not in tenant.admins
    tenant.drop_department(77)
    assert 77 not in tenant.children[1]
