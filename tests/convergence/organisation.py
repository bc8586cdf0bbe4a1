"""The organisation of every example: small, so that changes meet one another."""

import random
from dataclasses import replace

from simulator.model import ROOT, Department, Membership, Role, RoleGroup, RoleHolding
from simulator.seed import new_user
from simulator.tenant import Tenant

#: Ids as DingTalk's, one beyond 2^53.
LEFT, BELOW = 5_000_001, 2**60 + 1
FIRST_GROUP, SECOND_GROUP = 6_000_001, 6_000_002
FIRST, SECOND, THIRD = 7_000_001, 7_000_002, 7_000_003


def organisation(corp_id: str) -> Tenant:
    """Two departments below the root, two role groups with three roles, four people; nothing of it is stale."""
    rng = random.Random(1)
    tenant = Tenant(corp_id, "公司")
    tenant.put_department(Department(LEFT, ROOT, "左", 1))
    tenant.put_department(Department(BELOW, LEFT, "下", 2**57))
    for group_id, ids in ((FIRST_GROUP, (FIRST,)), (SECOND_GROUP, (SECOND, THIRD))):
        tenant.put_role_group(RoleGroup(group_id, f"组{group_id}"))
        for role_id in ids:
            tenant.put_role(Role(role_id, group_id, f"角色{role_id}"))
    places: tuple[tuple[int, ...], ...] = ((ROOT, LEFT), (LEFT,), (BELOW,), (LEFT, BELOW))
    held: tuple[tuple[int, ...], ...] = ((FIRST,), (SECOND,), (SECOND, THIRD), ())
    for number, (dept_ids, role_ids) in enumerate(zip(places, held, strict=True)):
        user = new_user(
            rng, number + 1, tuple(Membership(key, number + 1, number < 2) for key in dept_ids), f"u{number}"
        )
        tenant.put_user(
            replace(
                user,
                roles=tuple(RoleHolding(key, ()) for key in role_ids),
                manager_userid=f"u{number - 1}" if number else None,
                active=number != 3,
                admin_level=0 if number else 1,
            )
        )
    tenant.settle()
    return tenant
