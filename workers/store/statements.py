"""SQL that both dialects understand, built once: SQLAlchemy takes longer to build a statement than to run it.

Any number of rows or keys goes in one parameter, as JSON. Of one parameter for each value, client and PostgreSQL
together took more than twice as long.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from workers.store.tables import Timestamp, json_text, time_text

Column = sa.Column[Any]
Row = Mapping[str, Any]
Key = tuple[Any, ...]


def upsert(dialect: str, table: Table) -> Any:
    """The dialect's INSERT that knows ON CONFLICT."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)


def inserting(dialect: str, table: Table, columns: Sequence[str]) -> Any:
    """The same for the rows that are `given`, in their order."""
    rows = _rows(dialect, [table.c[name] for name in columns])
    # Without a condition SQLite takes the ON of ON CONFLICT for a join's.
    return upsert(dialect, table).from_select(list(columns), sa.select(rows).where(sa.true()))


def given(columns: Iterable[Column], rows: Iterable[Row]) -> dict[str, str]:
    """The parameter of a statement that was built for rows with these columns. Raises OverflowError."""
    writers = _writers(tuple(columns))
    found = []
    for row in rows:
        written = dict(row)
        for name, write in writers:
            if written[name] is not None:
                written[name] = write(written[name])
        found.append(written)
    return {"given": json_text(found)}


def given_keys(columns: Iterable[Column], keys: Iterable[Key]) -> dict[str, str]:
    """The parameter of a statement with `having` or `matching` in it."""
    names = [column.name for column in columns]
    return {"given": json_text([dict(zip(names, key, strict=True)) for key in keys])}


def having(dialect: str, columns: Sequence[Column]) -> sa.ColumnElement[bool]:
    """Rows whose columns have one of the given sets of values."""
    return sa.tuple_(*columns).in_(sa.select(_rows(dialect, columns)))


def matching(dialect: str, table: Table) -> sa.ColumnElement[bool]:
    """Rows of the given primary keys."""
    return having(dialect, list(table.primary_key.columns))


def key_columns(table: Table) -> list[str]:
    return [column.name for column in table.primary_key.columns]


def insert_ignoring(connection: Connection, table: Table, rows: Sequence[Row]) -> int:
    """Write these rows, all with the same columns, and leave alone those that exist; how many are new."""
    if not rows:
        return 0
    statement = _insert_ignoring(connection.dialect.name, table, tuple(rows[0]))
    return connection.execute(statement, given(_columns(table, rows[0]), rows)).rowcount


@cache
def _insert_ignoring(dialect: str, table: Table, columns: Sequence[str]) -> Any:
    return inserting(dialect, table, columns).on_conflict_do_nothing().execution_options(preserve_rowcount=True)


def update(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Write these rows, each given by its primary key and the same columns; they must exist."""
    if rows:
        statement = _update(connection.dialect.name, table, tuple(rows[0]))
        connection.execute(statement, given(_columns(table, rows[0]), rows))


@cache
def _update(dialect: str, table: Table, columns: Sequence[str]) -> sa.Update:
    keys = key_columns(table)
    new = _rows(dialect, [table.c[name] for name in columns]).c
    values = {name: new[name] for name in columns if name not in keys}
    return sa.update(table).where(*(table.c[name] == new[name] for name in keys)).values(values)


def alive(connection: Connection, column: Column, keys: Iterable[Key]) -> set[Key]:
    """Which of these have a living row: (corp_id, id), the id in this column."""
    wanted = set(keys)
    if not wanted:
        return set()
    found = connection.execute(
        _alive(connection.dialect.name, column), given_keys([column.table.c.corp_id, column], wanted)
    )
    return {(corp_id, found_id) for corp_id, found_id in found}


@cache
def _alive(dialect: str, column: Column) -> sa.Select[Any]:
    key = [column.table.c.corp_id, column]
    return sa.select(*key).where(having(dialect, key), column.table.c.deleted_at.is_(None))


def _columns(table: Table, names: Iterable[str]) -> list[Column]:
    return [table.c[name] for name in names]


def _rows(dialect: str, columns: Sequence[Column]) -> sa.Subquery:
    """The rows that are given, as a table."""
    text = sa.bindparam("given", type_=sa.Text())
    if dialect == "postgresql":
        # JSON within them is text: PostgreSQL's json keeps escapes that this function would have to read.
        fields = [sa.column(column.name, sa.Text() if _is_json(column) else column.type) for column in columns]
        rows = sa.func.json_to_recordset(sa.cast(text, sa.JSON)).table_valued(*fields)
        told = rows.render_derived("told", with_types=True).c
        values: list[sa.ColumnElement[Any]] = [sa.cast(told[column.name], column.type) for column in columns]
    else:
        # Materialized, or SQLite writes each row out as text anew for each of its columns; and nested, as Python's
        # sqlite3 counts no rows of a statement that begins with WITH.
        each = sa.func.json_each(text).table_valued("value")
        told = sa.select(each.c.value).cte("told", nesting=True).prefix_with("MATERIALIZED").c
        # The paths stand in the statement: bound anew at each run they took longer than the values.
        paths: list[sa.ColumnElement[Any]] = [sa.literal_column(f"'$.{column.name}'") for column in columns]
        values = [sa.func.json_extract(told.value, path, type_=c.type) for path, c in zip(paths, columns, strict=True)]
    return sa.select(*(value.label(column.name) for value, column in zip(values, columns, strict=True))).subquery(
        "given"
    )


def _is_json(column: Column) -> bool:
    return isinstance(column.type, sa.JSON)


@cache
def _writers(columns: Sequence[Column]) -> list[tuple[str, Callable[[Any], Any]]]:
    return [(column.name, write) for column in columns if (write := _writer(column)) is not None]


def _writer(column: Column) -> Callable[[Any], Any] | None:
    """How a value of this column is written into the JSON; None where it stays as it is."""
    if _is_json(column):
        return json_text
    if isinstance(column.type, Timestamp):
        return time_text
    return _within_64_bits if isinstance(column.type, sa.BigInteger) else None


def _within_64_bits(value: int) -> int:
    """What is beyond SQLite would make a fraction of; PostgreSQL refuses it by itself."""
    if not -(2**63) <= value < 2**63:
        raise OverflowError("a number is beyond 64 bits")
    return value
