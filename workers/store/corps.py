"""Write a corp: the root department's answer gives its name and tells whether it still is."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from bridge.events import Entity
from workers.shapes import CorpName, Department
from workers.store import comparisons, suites, tables
from workers.store.draft import Absence, ChangeKind, Draft, data
from workers.store.statements import Row, key_columns, update
from workers.store.tables import corps

#: Rows of a dissolved corp that are marked in one go.
CHUNK = 500
_DISSOLVED = sa.select(corps.c.corp_id).where(
    corps.c.corp_id.in_(sa.bindparam("corp_ids", expanding=True)), corps.c.status == "dissolved"
)
_BURIED: tuple[tuple[Table, ChangeKind, str], ...] = (
    (tables.departments, "department", "dept_id"),
    (tables.role_groups, "role_group", "group_id"),
    (tables.roles, "role", "role_id"),
    (tables.users, "user", "userid"),
)


def dissolved(connection: Connection, corp_ids: Collection[str]) -> set[str]:
    """Which of these corps are dissolved."""
    return set(connection.scalars(_DISSOLVED, {"corp_ids": list(corp_ids)})) if corp_ids else set()


def write_corp(draft: Draft, root: Entity, answer: Department | CorpName | Absence) -> None:
    """Write what the answer for the root department says of its corp."""
    query = sa.select(corps).where(corps.c.corp_id == root.corp_id).with_for_update()
    row = dict(draft.tx.execute(query).mappings().one())
    values: dict[str, Any]
    if isinstance(answer, Department) and root not in draft.pushed.taken:
        values = {
            "name": row["name"] if suites.letting_in(draft.tx, [root.corp_id]) and row["name"] else answer.name,
            "status": "active",
            "deleted_at": None,
            "fetched_at": draft.at,
            "raw": answer.raw,
        }
        if row["status"] == "dissolved":
            # All of its rows were buried with it; whatever lives there has to be read again.
            comparisons.make_due(draft.tx, root.corp_id, draft.begun, draft.begun, whole=True, allow_scope=True)
    elif isinstance(answer, CorpName | Department):
        values = {"name": answer.name or row["name"]}
    elif answer is Absence.DISSOLVED:
        values = {"status": "dissolved", "deleted_at": row["deleted_at"] or draft.at}
    else:
        return
    unseen = row["fetched_at"] is None and row["name"] is None and row["deleted_at"] is None
    first = unseen and answer is not Absence.DISSOLVED
    after = {**row, **values}
    draft.log(root, "corp", root.corp_id, None if first else row, after)
    update(draft.tx, corps, [after])
    if answer is Absence.DISSOLVED:
        _bury(draft, root)


def _bury(draft: Draft, root: Entity) -> None:
    """Everything of a dissolved corp is gone; its fence is held, so no other read is written meanwhile."""
    for table, kind, key in _BURIED:
        for rows in _living(draft, table, root.corp_id):
            after = [{**row, "deleted_at": draft.at, **_raised(draft, root, row)} for row in rows]
            update(draft.tx, table, after)
            members = _members(draft, root.corp_id, [row[key] for row in rows]) if kind == "user" else {}
            for row, buried in zip(rows, after, strict=True):
                old, new = data(row), data(buried)
                if kind == "user":
                    old |= members[row[key]]
                    new |= {"departments": [], "roles": []}
                draft.log(root, kind, str(row[key]), old, new)
    for table in (tables.department_members, tables.role_members):
        draft.tx.execute(sa.delete(table).where(table.c.corp_id == root.corp_id))


def _raised(draft: Draft, root: Entity, row: Row) -> dict[str, Any]:
    if "version" not in row:
        return {}
    return {**draft.guard(root), "version": row["version"] + 1}


def _living(draft: Draft, table: Table, corp_id: str) -> Iterator[list[dict[str, Any]]]:
    """The corp's rows that are not gone yet, locked, in key order and in chunks."""
    key = table.c[key_columns(table)[1]]
    query = sa.select(table).where(table.c.corp_id == corp_id, table.c.deleted_at.is_(None)).order_by(key).limit(CHUNK)
    while rows := [dict(row) for row in draft.tx.execute(query.with_for_update()).mappings()]:
        yield rows


def _members(draft: Draft, corp_id: str, userids: Sequence[str]) -> dict[str, dict[str, list[Any]]]:
    """The memberships of these users, as `changes` shows them."""
    found: dict[str, dict[str, list[Any]]] = {userid: {"departments": [], "roles": []} for userid in userids}
    table = tables.department_members
    query = sa.select(table).where(table.c.corp_id == corp_id, table.c.userid.in_(userids)).order_by(table.c.dept_id)
    for row in draft.tx.execute(query).mappings():
        shown = {name: row[name] for name in ("dept_id", "leader", "sort_order")}
        found[row["userid"]]["departments"].append(shown)
    table = tables.role_members
    query = sa.select(table).where(table.c.corp_id == corp_id, table.c.userid.in_(userids)).order_by(table.c.role_id)
    for row in draft.tx.execute(query).mappings():
        found[row["userid"]]["roles"].append(row["role_id"])
    return found
