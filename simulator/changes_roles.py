"""Changes to roles, role groups and their members. Pure: no I/O."""

from collections.abc import Sequence
from dataclasses import replace

from simulator.edit import Edit, ImpossibleChange, label_json
from simulator.model import Role, RoleGroup, RoleHolding, User
from simulator.seed import new_id
from simulator.words import TITLES, UNITS


def label_user_change(edit: Edit, named: int | None) -> None:
    """One to three people get one or two roles, or lose one; where there is no role, one is made. `named` is a role."""
    while named is None and not edit.tenant.roles.rows:
        label_conf_add(edit, None)
    role_id = edit.some(list(edit.tenant.roles.rows), named, "role")
    if role_id not in edit.tenant.roles.rows:
        raise ImpossibleChange(f"no role {role_id} in this organisation")
    holders = edit.view.holders(role_id)
    if holders and edit.rng.random() < 0.4:
        _take(edit, edit.rng.sample(holders, min(len(holders), edit.rng.randrange(1, 4))), role_id)
    else:
        _give(edit, role_id)


def label_conf_add(edit: Edit, named: int | None) -> None:
    """A new role, or a new role group."""
    labels = _labels(edit)
    if named in labels:
        raise ImpossibleChange(f"role or role group {named} is in the organisation already")
    label_id = new_id(edit.rng, labels) if named is None else named
    groups = list(edit.tenant.role_groups.rows)
    if groups and edit.rng.random() < 0.7:
        edit.tenant.put_role(Role(label_id, edit.rng.choice(groups), _name(edit)))
    else:
        edit.tenant.put_role_group(RoleGroup(label_id, _name(edit)))
    edit.tell("label_conf_add", labels=[label_id])


def label_conf_modify(edit: Edit, named: int | None) -> None:
    """A role or group gets another name, or a role moves to another group; where there is none, one is made."""
    if named is None and not _labels(edit):
        label_conf_add(edit, None)
    label_id = edit.some(_labels(edit), named, "role or role group")
    if role := edit.tenant.roles.rows.get(label_id):
        homes = [group_id for group_id in edit.tenant.role_groups.rows if group_id != role.group_id]
        moves = homes and edit.rng.random() < 0.3
        after = replace(role, group_id=edit.rng.choice(homes)) if moves else replace(role, name=_name(edit))
        edit.tenant.put_role(after)
        _tell_modified(edit, label_id, (role.name, role.group_id), after.name)
    elif group := edit.tenant.role_groups.rows.get(label_id):
        renamed = RoleGroup(label_id, _name(edit))
        edit.tenant.put_role_group(renamed)
        _tell_modified(edit, label_id, (group.name, None), renamed.name)
    else:
        raise ImpossibleChange(f"no role or role group {label_id} in this organisation")


def label_conf_del(edit: Edit, named: int | None) -> None:
    """A role goes, or a group with its roles; the members lose them without an event of their own.

    At random never the first group, DingTalk's own, nor its roles.
    """
    candidates = _deletable(edit)
    if named is None and not candidates:
        label_conf_add(edit, None)
    label_id = edit.some(candidates or _labels(edit), named, "role or role group")
    if label_id in edit.tenant.role_groups.rows:
        gone = [role.role_id for role in edit.view.roles_of(label_id)]
        edit.tenant.drop_role_group(label_id)
    elif label_id in edit.tenant.roles.rows:
        gone = [label_id]
    else:
        raise ImpossibleChange(f"no role or role group {label_id} in this organisation")
    for role_id in gone:
        _drop(edit, role_id)
    edit.tell("label_conf_del", labels=[label_id], roles_gone=gone)


def _give(edit: Edit, role_id: int) -> None:
    users = {user.userid: user for user in (edit.user(None) for _ in range(edit.rng.choice((1, 1, 1, 2, 3))))}
    role_ids = list(dict.fromkeys([role_id, *edit.rng.choices(list(edit.tenant.roles.rows), k=edit.rng.randrange(2))]))
    for user in users.values():
        fresh = tuple(RoleHolding(key, ()) for key in role_ids if not user.holds(key))
        edit.tenant.put_user(replace(user, roles=user.roles + fresh))
    edit.tell("label_user_change", users, labels=role_ids, action="add")


def _take(edit: Edit, users: Sequence[User], role_id: int) -> None:
    for user in users:
        edit.tenant.put_user(_without(user, role_id))
    edit.tell("label_user_change", [user.userid for user in users], labels=[role_id], action="remove")


def _drop(edit: Edit, role_id: int) -> None:
    for user in edit.view.holders(role_id):
        edit.tenant.put_user(_without(user, role_id))
    edit.tenant.drop_role(role_id)


def _without(user: User, role_id: int) -> User:
    return replace(user, roles=tuple(row for row in user.roles if row.role_id != role_id))


def _labels(edit: Edit) -> list[int]:
    return [*edit.tenant.roles.rows, *edit.tenant.role_groups.rows]


def _deletable(edit: Edit) -> list[int]:
    own = next(iter(edit.tenant.role_groups.rows), None)
    roles = [role.role_id for role in edit.tenant.roles.rows.values() if role.group_id != own]
    groups = [group_id for group_id in edit.tenant.role_groups.rows if group_id != own]
    # Seldom a whole group, else the roles would run out.
    return roles if roles and edit.rng.random() < 0.9 else roles + groups


def _name(edit: Edit) -> str:
    return f"{edit.rng.choice(UNITS)}{edit.rng.choice(TITLES)}{edit.rng.randrange(1000)}"


def _tell_modified(edit: Edit, label_id: int, before: tuple[str, int | None], name: str) -> None:
    old, group_id = before
    pair = (label_json(old, label_id, group_id, whole=True), label_json(name, label_id, group_id, whole=False))
    edit.tell("label_conf_modify", labels=[label_id], label=pair)
