"""Which recorded events name an entity."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Connection

from workers.store.tables import events

#: The column of `events` that lists the ids of each kind.
ID_COLUMNS = {"user": events.c.user_ids, "department": events.c.dept_ids, "role": events.c.role_ids}


def names(connection: Connection, kind: str, entity_id: str | int) -> sa.ColumnElement[bool]:
    """Events whose list of ids of that kind holds this one."""
    column: sa.Column[Any] = ID_COLUMNS[kind]
    if connection.dialect.name == "postgresql":
        return sa.cast(column, JSONB).contains([entity_id])
    listed = sa.func.json_each(column).table_valued("value")
    return sa.exists(sa.select(1).select_from(listed).where(listed.c.value == entity_id))
