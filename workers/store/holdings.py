"""What the datastore holds of a corp, in the shape that DingTalk's lists can be held against."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from bridge.events import Entity
from workers.store import tables
from workers.store.users import LISTED_FIELDS

#: Users that are loaded at a time, with their memberships.
CHUNK = 2000
#: Tables whose rows a pull may remove, each with the words for them.
REMOVABLE = {
    "users": "users",
    "departments": "departments",
    "department_members": "memberships of departments",
    "role_groups": "role groups",
    "roles": "roles",
    "role_members": "memberships of roles",
}


class HeldDepartment(NamedTuple):
    """A department that lives."""

    parent_id: int | None
    name: str | None
    visible: bool


class HeldUser(NamedTuple):
    """A user that lives: the columns of LISTED_FIELDS, leader and order in each department, and role ids."""

    userid: str
    values: tuple[Any, ...]
    visible: bool
    departments: dict[int, tuple[bool, int | None]]
    roles: set[int]


@dataclass
class Holdings:
    """The living rows of a corp. Users come one after another, as there may be half a million."""

    corp_id: str
    status: str
    departments: dict[int, HeldDepartment]
    groups: dict[int, str | None]
    #: Group and name of each role.
    roles: dict[int, tuple[int | None, str | None]]
    users: Iterator[HeldUser]
    #: Living rows of each removable table.
    living: dict[str, int]


def load(connection: Connection, corp_id: str) -> Holdings:
    """The corp as it is in this transaction; `users` must be used up within it."""

    def rows(table: Table, *names: str) -> Iterator[tuple[Any, ...]]:
        query = sa.select(*(table.c[name] for name in names))
        living = query.where(table.c.corp_id == corp_id, table.c.deleted_at.is_(None))
        return (tuple(row) for row in connection.execute(living))

    status = connection.scalar(sa.select(tables.corps.c.status).where(tables.corps.c.corp_id == corp_id))
    departments = rows(tables.departments, "dept_id", *HeldDepartment._fields)
    return Holdings(
        corp_id,
        status or "active",
        {dept_id: HeldDepartment(*values) for dept_id, *values in departments},
        dict(rows(tables.role_groups, "group_id", "name")),
        {role_id: (group_id, name) for role_id, group_id, name in rows(tables.roles, "role_id", "group_id", "name")},
        _users(connection, corp_id),
        {name: _count(connection, tables.metadata.tables[name], corp_id) for name in REMOVABLE},
    )


def longest_unread(connection: Connection, corp_id: str, table: Table, limit: int | None) -> list[Entity]:
    """The living users or departments of a corp whose last read is the longest ago; all where there is no limit."""
    kind, key = ("user", table.c.userid) if table is tables.users else ("department", table.c.dept_id)
    query = (
        sa.select(key)
        .where(table.c.corp_id == corp_id, table.c.deleted_at.is_(None))
        .order_by(table.c.read_begun.nulls_first(), key)
        .limit(limit)
    )
    return [Entity(corp_id, kind, str(found)) for found in connection.scalars(query)]  # type: ignore[arg-type]


def _count(connection: Connection, table: Table, corp_id: str) -> int:
    query = sa.select(sa.func.count()).select_from(table).where(table.c.corp_id == corp_id)
    if "deleted_at" in table.c:
        query = query.where(table.c.deleted_at.is_(None))
    return int(connection.scalar(query) or 0)


def _users(connection: Connection, corp_id: str) -> Iterator[HeldUser]:
    """In key order; the datastore's own order decides, as SQL and Python may sort text differently."""
    users, after = tables.users, ""
    names = ("userid", "visible", *LISTED_FIELDS)
    while True:
        query = (
            sa.select(*(users.c[name] for name in names))
            .where(users.c.corp_id == corp_id, users.c.deleted_at.is_(None), users.c.userid > after)
            .order_by(users.c.userid)
            .limit(CHUNK)
        )
        rows = connection.execute(query).all()
        if not rows:
            return
        first, last = rows[0].userid, rows[-1].userid
        departments: defaultdict[str, dict[int, tuple[bool, int | None]]] = defaultdict(dict)
        table = tables.department_members
        between = (table.c.corp_id == corp_id, table.c.userid >= first, table.c.userid <= last)
        columns = (table.c.userid, table.c.dept_id, table.c.leader, table.c.sort_order)
        for userid, dept_id, leader, order in connection.execute(sa.select(*columns).where(*between)):
            departments[userid][dept_id] = (leader, order)
        roles: defaultdict[str, set[int]] = defaultdict(set)
        table = tables.role_members
        between = (table.c.corp_id == corp_id, table.c.userid >= first, table.c.userid <= last)
        for userid, role_id in connection.execute(sa.select(table.c.userid, table.c.role_id).where(*between)):
            roles[userid].add(role_id)
        for row in rows:
            yield HeldUser(row.userid, tuple(row[2:]), row.visible, departments[row.userid], roles[row.userid])
        after = last
