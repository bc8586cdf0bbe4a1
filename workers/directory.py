"""What a user's function is given: the event or change that it waits for, and the datastore's present state."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from workers.store import tables
from workers.store.draft import data
from workers.store.engine import Store
from workers.store.users import whole_user

Record = dict[str, Any]


@dataclass(frozen=True)
class Event:
    """An event that the datastore has caught up with; `payload` is what DingTalk sent."""

    id: str
    type: str
    corp_id: str | None
    app: str
    occurred_at: datetime | None
    user_ids: tuple[str, ...] = ()
    dept_ids: tuple[int, ...] = ()
    role_ids: tuple[int, ...] = ()
    payload: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Change:
    """What really changed, as committed: `before` and `after` are whole rows, None where there is no row."""

    seq: int
    corp_id: str
    entity: str
    entity_id: str
    operation: str
    before: Record | None
    after: Record | None
    event_id: str | None
    changed_at: datetime | None = None


class Directory(Protocol):
    """The datastore's present state of one corp. Rows are those of the tables, tombstones too."""

    def user(self, userid: str) -> Record | None:
        """A user with `departments` (dept_id, leader, sort_order) and `roles` (ids), None where it was never seen."""

    def department(self, dept_id: int) -> Record | None:
        """A department, None where it was never seen."""

    def role(self, role_id: int) -> Record | None:
        """A role, None where it was never seen."""

    def members(self, dept_id: int) -> list[Record]:
        """The users in this department itself, as `user` gives them."""


class StoreDirectory:
    """A Directory that reads the datastore."""

    def __init__(self, store: Store, corp_id: str | None) -> None:
        self._store = store
        self._corp_id = corp_id

    def user(self, userid: str) -> Record | None:
        with self._store.reading() as connection:
            return self._user(connection, userid)

    def department(self, dept_id: int) -> Record | None:
        return self._row(tables.departments, tables.departments.c.dept_id == dept_id)

    def role(self, role_id: int) -> Record | None:
        return self._row(tables.roles, tables.roles.c.role_id == role_id)

    def members(self, dept_id: int) -> list[Record]:
        table = tables.department_members
        query = (
            sa.select(table.c.userid)
            .where(table.c.corp_id == self._corp_id, table.c.dept_id == dept_id)
            .order_by(table.c.userid)
        )
        with self._store.reading() as connection:
            found = (self._user(connection, userid) for userid in connection.scalars(query).all())
            return [user for user in found if user is not None]

    def _user(self, connection: Connection, userid: str) -> Record | None:
        return whole_user(connection, self._corp_id or "", userid)

    def _row(self, table: Table, condition: sa.ColumnElement[bool]) -> Record | None:
        with self._store.reading() as connection:
            row = (
                connection.execute(sa.select(table).where(table.c.corp_id == self._corp_id, condition))
                .mappings()
                .first()
            )
        return None if row is None else data(dict(row))
