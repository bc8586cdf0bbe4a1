"""Write a corp's whole role list: it is read in one answer and written under one version."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Table

from bridge.events import Entity
from workers.shapes import RoleGroup, RoleRow, SomeRoles
from workers.store import tables
from workers.store.draft import Absence, Draft, data, lock, made_at
from workers.store.statements import Row, insert_ignoring, update


def write_role_lists(draft: Draft, answers: Mapping[Entity, Sequence[RoleGroup] | SomeRoles | Absence]) -> None:
    """Write what was read of these corps' role lists; overtaken ones go to `draft.moved`."""
    if not answers:
        return
    held = lock(draft, tables.role_lists, {entity: (entity.corp_id,) for entity in answers})
    for entity in held:
        answer = answers[entity]
        if isinstance(answer, Absence):
            continue
        if isinstance(answer, SomeRoles):
            _write_some(draft, entity, answer)
            continue
        groups = {group.group_id: {"name": group.name} for group in answer}
        roles = {role.id: {"name": role.name, "group_id": group.group_id} for group in answer for role in group.roles}
        _write(draft, entity, tables.role_groups, "role_group", groups)
        gone = _write(draft, entity, tables.roles, "role", roles)
        _mark_members(draft, entity, gone)
    rows = [{**row, **draft.guard(entity)} for entity, row in held.items()]
    update(draft.tx, tables.role_lists, rows)


def _write(
    draft: Draft,
    entity: Entity,
    table: Table,
    kind: Literal["role", "role_group"],
    listed: Mapping[int, Mapping[str, Any]],
) -> list[int]:
    """Make the corp's rows of this table what the list says; the ids that it dropped."""
    corp = entity.corp_id
    key = "role_id" if kind == "role" else "group_id"
    query = sa.select(table).where(table.c.corp_id == corp).order_by(table.c[key]).with_for_update()
    rows = {row[key]: dict(row) for row in draft.tx.execute(query).mappings()}
    read: dict[str, Any] = {"deleted_at": None, "fetched_at": draft.at}
    if kind == "role":  # the list is newer than every row that was seen
        orders = (row["pushed_order"] or "" for row in rows.values())
        read |= {
            "pushed_at": None,
            "pushed_order": max([*orders, draft.pushed.seen.get(entity, "")], default="") or None,
        }
    after: dict[int, Row] = {found: {"corp_id": corp, key: found, **values, **read} for found, values in listed.items()}
    dropped = [found for found, row in rows.items() if found not in listed and row["deleted_at"] is None]
    after |= {found: {**rows[found], "deleted_at": draft.at} for found in dropped}
    new = [after[found] for found in sorted(after.keys() - rows.keys())]
    insert_ignoring(draft.tx, table, new)
    update(draft.tx, table, [after[found] for found in sorted(after.keys() & rows.keys())])
    for found in sorted(after):
        before = rows.get(found)
        draft.log(entity, kind, str(found), data(before) if before else None, data(after[found]))
    return dropped


def _write_some(draft: Draft, entity: Entity, some: SomeRoles) -> None:
    """Single roles, as pushed rows tell them or by their ids alone; what a newer row told of stays."""
    corp, table = entity.corp_id, tables.roles
    ids = sorted({*some.told, *some.named})
    query = sa.select(table).where(table.c.corp_id == corp, table.c.role_id.in_(ids)).order_by(table.c.role_id)
    rows = {row["role_id"]: dict(row) for row in draft.tx.execute(query.with_for_update()).mappings()}
    unknown = [{"corp_id": corp, "role_id": role_id} for role_id in ids if role_id not in rows]
    insert_ignoring(draft.tx, table, unknown)
    empty = {"group_id": None, "name": None, "deleted_at": None, "fetched_at": None, "pushed_at": None}
    for role_id in ids:
        before = rows.get(role_id)
        after = before or {"corp_id": corp, "role_id": role_id, **empty, "pushed_order": None}
        order, told = some.told.get(role_id, ("", None))
        if role_id in some.told and order >= (after["pushed_order"] or ""):
            after = {**after, "pushed_at": made_at(order), "pushed_order": order}
            if told is None:
                after["deleted_at"] = after["deleted_at"] or draft.at
            else:
                after |= {"name": told.name, "group_id": told.group_id, "deleted_at": None}
        update(draft.tx, table, [after])
        if draft.log(entity, "role", str(role_id), data(before) if before else None, data(after)) == "delete":
            _mark_members(draft, entity, [role_id])
    _write_groups(draft, entity, [told for _, told in some.told.values() if told is not None])


def _write_groups(draft: Draft, entity: Entity, told: Iterable[RoleRow]) -> None:
    """The groups that rows of roles name, where they are not known: a list has more to say of them."""
    table = tables.role_groups
    names = {row.group_id: row.group_name for row in told if row.group_id is not None}
    query = sa.select(table.c.group_id).where(table.c.corp_id == entity.corp_id, table.c.group_id.in_(list(names)))
    known = set(draft.tx.scalars(query))
    for group_id in sorted(names.keys() - known):
        row = {"corp_id": entity.corp_id, "group_id": group_id, "name": names[group_id], "deleted_at": None}
        insert_ignoring(draft.tx, table, [row])
        draft.log(entity, "role_group", str(group_id), None, {**row, "fetched_at": None})


def _mark_members(draft: Draft, entity: Entity, gone: Iterable[int]) -> None:
    """Memberships are written with the user's row: whoever had a role that is gone must be read."""
    table = tables.role_members
    query = (
        sa.select(table.c.userid).distinct().where(table.c.corp_id == entity.corp_id, table.c.role_id.in_(list(gone)))
    )
    users = [Entity(entity.corp_id, "user", userid) for userid in draft.tx.scalars(query)]
    draft.mark(entity, users, "its role is gone", settling=True)
