"""Write a corp's whole role list: it is read in one answer and written under one version."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Table

from bridge.events import Entity
from workers.answers import RoleGroup
from workers.store import tables
from workers.store.draft import Absence, Draft, Row, insert_ignoring, lock, update


def write_role_lists(draft: Draft, answers: Mapping[Entity, Sequence[RoleGroup] | Absence]) -> None:
    """Write what was read of these corps' role lists; overtaken ones go to `draft.moved`."""
    if not answers:
        return
    held = lock(draft, tables.role_lists, {entity: (entity.corp_id,) for entity in answers})
    for entity in held:
        answer = answers[entity]
        if isinstance(answer, Absence):
            continue
        groups = {group.group_id: {"name": group.name} for group in answer}
        roles = {role.id: {"name": role.name, "group_id": group.group_id} for group in answer for role in group.roles}
        _write(draft, entity, tables.role_groups, "role_group", groups)
        gone = _write(draft, entity, tables.roles, "role", roles)
        _mark_members(draft, entity, gone)
    rows = [{"corp_id": entity.corp_id, **draft.guard(entity)} for entity in held]
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
    after: dict[int, Row] = {
        found: {"corp_id": corp, key: found, **values, "deleted_at": None, "fetched_at": draft.at}
        for found, values in listed.items()
    }
    dropped = [found for found, row in rows.items() if found not in listed and row["deleted_at"] is None]
    after |= {found: {**rows[found], "deleted_at": draft.at} for found in dropped}
    new = [after[found] for found in sorted(after.keys() - rows.keys())]
    if new:
        draft.tx.execute(insert_ignoring(draft.tx, table), new)
    update(draft.tx, table, [after[found] for found in sorted(after.keys() & rows.keys())])
    for found in sorted(after):
        draft.log(entity, kind, str(found), rows.get(found), dict(after[found]))
    return dropped


def _mark_members(draft: Draft, entity: Entity, gone: Iterable[int]) -> None:
    """Memberships are written with the user's row: whoever had a role that is gone must be read."""
    table = tables.role_members
    query = (
        sa.select(table.c.userid).distinct().where(table.c.corp_id == entity.corp_id, table.c.role_id.in_(list(gone)))
    )
    users = [Entity(entity.corp_id, "user", userid) for userid in draft.tx.scalars(query)]
    draft.mark(entity, users, "its role is gone", settling=True)
