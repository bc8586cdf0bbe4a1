"""SQL that both dialects understand, built once: SQLAlchemy takes longer to build a statement than to run it.

A statement with `having` or `matching` in it is run with `given`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

Row = Mapping[str, Any]
Key = tuple[Any, ...]


def upsert(dialect: str, table: Table) -> Any:
    """The dialect's INSERT that knows ON CONFLICT."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


@cache
def insert_ignoring(dialect: str, table: Table) -> Any:
    """An INSERT that leaves rows alone that exist."""
    return upsert(dialect, table).on_conflict_do_nothing()


def key_columns(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


def having(dialect: str, columns: Sequence[sa.ColumnElement[Any]]) -> sa.ColumnElement[bool]:
    """Rows whose columns have one of the given sets of values, of which there may be any number."""
    wanted = sa.tuple_(*columns)
    if dialect == "postgresql":
        return wanted.in_(sa.bindparam("keys", expanding=True))
    # SQLite looks through the whole table for a list of sets, but not for a query.
    keys = sa.func.json_each(sa.bindparam("keys", type_=sa.String)).table_valued("value")
    return wanted.in_(sa.select(*(sa.func.json_extract(keys.c.value, f"$[{at}]") for at in range(len(columns)))))


def matching(dialect: str, table: Table) -> sa.ColumnElement[bool]:
    """Rows of the given primary keys."""
    return having(dialect, list(table.primary_key.columns))


def given(connection: Connection, keys: Iterable[Key]) -> dict[str, Any]:
    """What a statement with `having` or `matching` is run with."""
    found = list(keys)
    return {"keys": found if connection.dialect.name == "postgresql" else msgspec.json.encode(found).decode()}


def update(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Write these rows, each given by its primary key and the same columns; they must exist."""
    if not rows:
        return
    names = key_columns(table)
    parameters = [{f"{'key' if name in names else 'new'}_{name}": row[name] for name in row} for row in rows]
    connection.execute(_update(table, tuple(rows[0])), parameters)


@cache
def _update(table: Table, columns: Sequence[str]) -> sa.Update:
    names = key_columns(table)
    values: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in columns if name not in names}
    return sa.update(table).where(*(table.c[name] == sa.bindparam(f"key_{name}") for name in names)).values(values)


def alive(connection: Connection, corp_ids: Collection[str], column: sa.Column[Any], ids: Collection[Any]) -> set[Key]:
    """Which of these ids have a living row: (corp_id, id)."""
    if not ids:
        return set()
    found = connection.execute(_alive(column), {"corp_ids": list(corp_ids), "ids": list(ids)})
    return {(corp_id, found_id) for corp_id, found_id in found}


@cache
def _alive(column: sa.Column[Any]) -> sa.Select[Any]:
    table = column.table
    return sa.select(table.c.corp_id, column).where(
        table.c.corp_id.in_(sa.bindparam("corp_ids", expanding=True)),
        column.in_(sa.bindparam("ids", expanding=True)),
        table.c.deleted_at.is_(None),
    )
