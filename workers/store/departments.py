"""Write departments, and with the root department its corp."""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from bridge.events import ROOT_DEPARTMENT, Entity
from workers.shapes import CorpName, Department
from workers.store.corps import write_corp
from workers.store.draft import Absence, Draft, data, lock, seen
from workers.store.statements import Row, alive, update
from workers.store.tables import department_members, departments


def write_departments(draft: Draft, answers: Mapping[Entity, Department | CorpName | Absence]) -> None:
    """Write what was read of these departments; overtaken ones go to `draft.moved`."""
    if not answers:
        return
    held = lock(draft, departments, {entity: (entity.corp_id, int(entity.id)) for entity in answers})
    rows: list[Row] = []
    for entity, row in held.items():
        answer = Absence.UNREAD if draft.outdated(entity, row) else answers[entity]
        values = _values(draft, row, answer, entity in draft.pushed.taken)
        values |= draft.pushing(entity, row, answer is Absence.UNREAD or isinstance(answer, CorpName))
        rows.append({**row, **values, **draft.guard(entity)})
        operation = draft.log(entity, "department", entity.id, data(row) if seen(row) else None, data(rows[-1]))
        buried = answer is Absence.DISSOLVED and row["dept_id"] == ROOT_DEPARTMENT  # and all its people with it
        if operation == "delete" and not buried:
            _mark_left_behind(draft, entity)
    update(draft.tx, departments, rows)
    parents = {
        entity: answer.parent_id
        for entity in held
        if isinstance(answer := answers[entity], Department) and answer.parent_id != held[entity]["parent_id"]
    }
    _mark_unknown_parents(draft, parents)
    for entity in held:
        if int(entity.id) == ROOT_DEPARTMENT and not draft.outdated(entity, held[entity]):
            write_corp(draft, entity, answers[entity])


def _values(draft: Draft, row: Row, answer: Department | CorpName | Absence, pushed: bool) -> dict[str, Any]:
    if isinstance(answer, Department):
        values = {
            "parent_id": None if row["dept_id"] == ROOT_DEPARTMENT else answer.parent_id,
            "name": answer.name,
            "sort_order": answer.order,
            "manager_userids": list(answer.manager_userids),
            "visible": True,
            "deleted_at": None,
        }
        return values if pushed else values | {"fetched_at": draft.at, "raw": answer.raw}
    if answer is Absence.HIDDEN:
        return {"visible": False, "deleted_at": None}
    if answer is Absence.UNREAD or isinstance(answer, CorpName):
        return {}
    return {"deleted_at": row["deleted_at"] or draft.at}


def _mark_left_behind(draft: Draft, entity: Entity) -> None:
    """Members and sub-departments of a department that is gone must say where they are now."""
    corp, dept = entity.corp_id, int(entity.id)
    members = sa.select(department_members.c.userid).where(
        department_members.c.corp_id == corp, department_members.c.dept_id == dept
    )
    users = [Entity(corp, "user", userid) for userid in draft.tx.scalars(members)]
    draft.mark(entity, users, "its department is gone", settling=True)
    below = sa.select(departments.c.dept_id).where(
        departments.c.corp_id == corp, departments.c.parent_id == dept, departments.c.deleted_at.is_(None)
    )
    children = [Entity(corp, "department", str(child)) for child in draft.tx.scalars(below)]
    draft.mark(entity, children, "its parent department is gone", settling=True)


def _mark_unknown_parents(draft: Draft, parents: Mapping[Entity, int | None]) -> None:
    """A child may come before its parent: ask for the parent then."""
    keys = ((entity.corp_id, parent) for entity, parent in parents.items() if parent)
    known = alive(draft.tx, departments.c.dept_id, keys)
    for entity, parent in parents.items():
        if parent and (entity.corp_id, parent) not in known:
            unknown = Entity(entity.corp_id, "department", str(parent))
            draft.mark(entity, [unknown], "a department lies under it")
