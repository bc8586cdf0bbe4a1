"""Write users with their memberships: both belong to the user's row and are written under its version."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

import sqlalchemy as sa
from msgspec import UNSET
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from bridge.events import Entity
from workers.shapes import User
from workers.store import tables
from workers.store.draft import (
    Absence,
    Draft,
    data,
    lock,
    seen,
)
from workers.store.statements import Key, Row, alive, given_keys, having, insert_ignoring, matching, update
from workers.store.tables import department_members, role_members, users

#: Fields that are empty when the API leaves them out.
PLAIN_FIELDS = (
    "unionid", "name", "title", "job_number", "manager_userid", "active", "admin", "boss", "senior",
)  # fmt: skip
#: Fields that the API leaves out for lack of permission: they keep their value (rule 6).
KEPT_FIELDS = (
    "mobile", "state_code", "telephone", "email", "org_email", "work_place", "remark", "extension",
)  # fmt: skip
#: Columns that a list of members tells, too.
LISTED_FIELDS = ("unionid", "name", "title", "job_number", "active", "admin", "boss", *KEPT_FIELDS, "hired_at")
#: Milliseconds below and beyond which a hiring date is none: the years 1 and 9999, but for a day's room for time zones.
_MIN_DATE, _MAX_DATE = -62_135_510_400_000, 253_402_214_400_000

Memberships = dict[int, tuple[bool, int | None]]


def write_users(draft: Draft, answers: Mapping[Entity, User | Absence]) -> None:
    """Write what was read of these users; overtaken ones go to `draft.moved`."""
    if not answers:
        return
    held = lock(draft, users, {entity: (entity.corp_id, entity.id) for entity in answers})
    departments, roles = _memberships(draft.tx, held)
    rows: list[Row] = []
    joined: dict[Entity, set[int]] = {}
    assigned: dict[Entity, set[int]] = {}
    before_departments, before_roles = dict(departments), dict(roles)
    for entity, row in held.items():
        answer = Absence.UNREAD if draft.outdated(entity, row) else answers[entity]
        values = _values(draft, row, answer, entity in draft.pushed.taken)
        values |= draft.pushing(entity, row, answer is Absence.UNREAD)
        rows.append({**row, **values, **draft.guard(entity)})
        old_departments, old_roles = departments[entity], roles[entity]
        new_departments, new_roles = old_departments, old_roles
        if isinstance(answer, User):
            new_departments = {m.dept_id: (m.leader, m.order) for m in answer.departments}
            new_roles = {role.id for role in answer.roles}
        elif answer in (Absence.GONE, Absence.DISSOLVED):
            new_departments, new_roles = {}, set()
        joined[entity] = new_departments.keys() - old_departments.keys()
        assigned[entity] = new_roles - old_roles
        before = _whole(row, old_departments, old_roles) if seen(row) else None
        draft.log(entity, "user", entity.id, before, _whole(rows[-1], new_departments, new_roles))
        departments[entity], roles[entity] = new_departments, new_roles
    update(draft.tx, users, rows)
    _replace_departments(draft.tx, before_departments, departments)
    _replace_roles(draft.tx, before_roles, roles)
    _mark_unknown(draft, joined, assigned)


def whole_user(connection: Connection, corp_id: str, userid: str) -> dict[str, Any] | None:
    """A user with its memberships, as `changes` shows it; None where there is no row."""
    row = connection.execute(sa.select(users).where(users.c.corp_id == corp_id, users.c.userid == userid)).mappings()
    found = row.first()
    if found is None:
        return None
    entity = Entity(corp_id, "user", userid)
    departments, roles = _memberships(connection, [entity])
    return _whole(dict(found), departments[entity], roles[entity])


def told(answer: User) -> dict[str, Any]:
    """The columns that this answer has something to say of."""
    values = {name: getattr(answer, name) for name in (*PLAIN_FIELDS, *KEPT_FIELDS)}
    values["hired_at"] = answer.hired_date if answer.hired_date is UNSET else _date(answer.hired_date)
    return {name: value for name, value in values.items() if value is not UNSET}


def _values(draft: Draft, row: Row, answer: User | Absence, pushed: bool) -> dict[str, Any]:
    """The columns that this answer sets."""
    if isinstance(answer, User):
        kept = {name: row[name] for name in (*KEPT_FIELDS, "hired_at")}
        values = dict.fromkeys(PLAIN_FIELDS) | kept | told(answer) | {"visible": True, "deleted_at": None}
        if pushed:  # it tells who is an admin, and not of which level
            return values | {"admin_level": row["admin_level"] if values["admin"] else None}
        return values | {"admin_level": answer.admin_level, "fetched_at": draft.at, "raw": answer.raw}
    if answer is Absence.HIDDEN:
        return {"visible": False, "deleted_at": None}
    if answer is Absence.UNREAD:
        return {}
    return {"deleted_at": row["deleted_at"] or draft.at}


def _date(milliseconds: Any) -> datetime | None:
    if milliseconds is None or not _MIN_DATE <= milliseconds < _MAX_DATE:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _memberships(
    connection: Connection, held: Collection[Entity]
) -> tuple[dict[Entity, Memberships], dict[Entity, set[int]]]:
    """The present memberships of these users; nobody else changes them while the users' rows are locked."""
    departments: dict[Entity, Memberships] = {entity: {} for entity in held}
    roles: dict[Entity, set[int]] = {entity: set() for entity in held}
    by_key: dict[Key, Entity] = {(entity.corp_id, entity.id): entity for entity in held}
    for table in (department_members, role_members):
        query = _of_users(connection.dialect.name, table)
        for row in connection.execute(query, given_keys(_user_key(table), by_key)).mappings():
            entity = by_key[row["corp_id"], row["userid"]]
            if table is department_members:
                departments[entity][row["dept_id"]] = (row["leader"], row["sort_order"])
            else:
                roles[entity].add(row["role_id"])
    return departments, roles


@cache
def _of_users(dialect: str, table: Table) -> sa.Select[Any]:
    """The rows of the given users."""
    return sa.select(table).where(having(dialect, _user_key(table)))


def _user_key(table: Table) -> list[sa.Column[Any]]:
    return [table.c.corp_id, table.c.userid]


def _replace_departments(
    connection: Connection, before: Mapping[Entity, Memberships], after: Mapping[Entity, Memberships]
) -> None:
    stale: list[Key] = []
    fresh: list[Row] = []
    for entity, old in before.items():
        corp, user, new = entity.corp_id, entity.id, after[entity]
        stale += [(corp, dept, user) for dept in old if new.get(dept) != old[dept]]
        fresh += [
            {"corp_id": corp, "dept_id": dept, "userid": user, "leader": leader, "sort_order": order}
            for dept, (leader, order) in sorted(new.items())
            if old.get(dept) != (leader, order)
        ]
    _replace(connection, department_members, stale, fresh)


def _replace_roles(connection: Connection, before: Mapping[Entity, set[int]], after: Mapping[Entity, set[int]]) -> None:
    lost: list[Key] = []
    gained: list[Row] = []
    for entity, old in before.items():
        corp, user, new = entity.corp_id, entity.id, after[entity]
        lost += [(corp, role, user) for role in old - new]
        gained += [{"corp_id": corp, "role_id": role, "userid": user} for role in sorted(new - old)]
    _replace(connection, role_members, lost, gained)


def _replace(connection: Connection, table: Table, stale: Sequence[Key], fresh: Sequence[Row]) -> None:
    if stale:
        connection.execute(_delete(connection.dialect.name, table), given_keys(table.primary_key.columns, stale))
    insert_ignoring(connection, table, fresh)


@cache
def _delete(dialect: str, table: Table) -> sa.Delete:
    return sa.delete(table).where(matching(dialect, table))


def _whole(row: Row, departments: Memberships, roles: set[int]) -> dict[str, Any]:
    """A user as `changes` shows it: the row with its departments and role ids."""
    return data(row) | {
        "departments": [
            {"dept_id": dept, "leader": leader, "sort_order": order}
            for dept, (leader, order) in sorted(departments.items())
        ],
        "roles": sorted(roles),
    }


def _mark_unknown(draft: Draft, joined: Mapping[Entity, set[int]], assigned: Mapping[Entity, set[int]]) -> None:
    """A user may come before its department or role: ask for what is not there yet."""
    for column, wanted in ((tables.departments.c.dept_id, joined), (tables.roles.c.role_id, assigned)):
        known = alive(draft.tx, column, ((entity.corp_id, found) for entity, ids in wanted.items() for found in ids))
        for entity, ids in wanted.items():
            corp = entity.corp_id
            missing = [found for found in ids if (corp, found) not in known]
            if wanted is joined:
                unknown = [Entity(corp, "department", str(found)) for found in missing]
            else:
                unknown = [Entity(corp, "roles", "")] if missing else []
            draft.mark(entity, unknown, "a user belongs to it")
