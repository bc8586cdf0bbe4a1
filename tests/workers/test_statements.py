"""Rows and keys that are given in one parameter reach the datastore as they are, and find their rows by the index."""

import threading
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from tests.installation import CORP
from tests.servers import wait_until
from tests.workers.helpers import Desk, user
from workers.store import reads, statements, tables
from workers.store.reads import Due
from workers.store.statements import given, given_keys, insert_ignoring, matching, update

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SHANGHAI = timezone(timedelta(hours=8))
#: Text that JSON, SQL or a path in JSON might take for something else.
TEXTS = [
    "",
    " ",
    "null",
    "true",
    "12",
    "1e5",
    '"',
    "'",
    "\\",
    "\\u0000",
    "%s",
    ":given",
    "$.a",
    "{}",
    '["a"]',
    "名字🐉",
    "\n",
]


def member(userid: str, **values: Any) -> dict[str, Any]:
    return {"corp_id": CORP, "userid": userid, **values}


def insert(desk: Desk, *rows: dict[str, Any]) -> int:
    with desk.store.writing() as connection:
        return insert_ignoring(connection, tables.users, rows)


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_as_it_is(desk: Desk, text: str) -> None:
    row = member(text, name=text, raw={text: [text, {"a": text}]})
    insert(desk, row)
    kept = desk.row(tables.users)
    assert {name: kept[name] for name in row} == row
    changed = row | {"title": text, "raw": [text]}
    with desk.store.writing() as connection:
        update(connection, tables.users, [changed])
        found = connection.execute(
            sa.select(tables.users.c.title).where(matching(connection.dialect.name, tables.users)),
            given_keys(tables.users.primary_key.columns, [(CORP, text)]),
        )
        assert found.all() == [(text,)]
    kept = desk.row(tables.users)
    assert {name: kept[name] for name in changed} == changed


@pytest.mark.parametrize(
    "values",
    [
        {"admin": True, "boss": False, "senior": None},
        {"read_begun": 2**63 - 1, "version": -(2**63), "admin_level": 2},
        {
            "hired_at": NOON,
            "fetched_at": datetime(2026, 1, 2, 20, 0, 0, 1, timezone(timedelta(hours=8))),
            "deleted_at": None,
        },
        {"raw": None},
        {"raw": {"a": None, "b": [1, 2.5, True]}},
        {"raw": []},
    ],
    ids=["truth", "numbers", "times", "nothing", "an object", "an empty list"],
)
def test_values_of_all_kinds_stay_as_they_are(desk: Desk, values: dict[str, Any]) -> None:
    insert(desk, member("one", **values), member("two", **values))
    assert [{name: row[name] for name in values} for row in desk.rows(tables.users)] == [values, values]
    insert(desk, member("bare"))
    with desk.store.writing() as connection:
        update(connection, tables.users, [member("bare", **values)])
    assert [{name: row[name] for name in values} for row in desk.rows(tables.users)] == [values] * 3


def test_no_json_is_null(desk: Desk) -> None:
    insert(desk, member("one", raw=None))
    with desk.store.reading() as connection:
        assert connection.scalar(sa.select(tables.users.c.userid).where(tables.users.c.raw.is_(sa.null()))) == "one"


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**80])
def test_a_number_beyond_64_bits_is_refused(desk: Desk, number: int) -> None:
    with pytest.raises(OverflowError, match="64 bits"):
        insert(desk, member("one", read_begun=number))
    assert desk.rows(tables.users) == []


def test_how_many_were_new(desk: Desk) -> None:
    assert insert(desk) == 0
    assert insert(desk, member("one", name="first"), member("two", name="first")) == 2
    assert (
        insert(desk, member("one", name="second"), member("three", name="second"), member("three", name="third")) == 1
    )
    assert {row["userid"]: row["name"] for row in desk.rows(tables.users)} == {
        "one": "first",
        "two": "first",
        "three": "second",
    }


def test_nothing_to_update_is_nothing(desk: Desk) -> None:
    with desk.store.writing() as connection:
        update(connection, tables.users, [])


def test_sqlite_looks_for_given_rows_by_the_index() -> None:
    """A thousand users, and not the whole table for each of them."""
    engine = sa.create_engine("sqlite://")
    tables.metadata.create_all(engine)
    key = list(tables.users.primary_key.columns)
    parameter = given(key, [member("one")])["given"]
    with engine.connect() as connection:
        for statement in (
            sa.select(tables.users).where(matching("sqlite", tables.users)),
            sa.delete(tables.users).where(matching("sqlite", tables.users)),
            statements._update("sqlite", tables.users, ("corp_id", "userid", "name")),
        ):
            compiled = statement.compile(dialect=sqlite.dialect())
            values = [compiled.params[name] or parameter for name in compiled.positiontup or ()]
            plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}", tuple(values))]
            assert any("SEARCH users" in step and "corp_id=? AND userid=?" in step for step in plan), plan


def test_a_finished_read_that_is_asked_for_anew_meanwhile_stays(postgresql_desk: Desk) -> None:
    """Whoever finishes it waits for whoever asks anew, and then looks again."""
    store, due = postgresql_desk.store, Due(user("u1"), 1, "echo")
    with store.writing() as connection:
        reads.schedule(connection, [due])
    with store.writing() as connection:
        taken = reads.take(connection, 5, 10, reads.Priority.COPY)

    def finish() -> None:
        with store.writing() as connection:
            reads.finish(connection, taken)

    finishing = threading.Thread(target=finish)
    with store.writing() as connection:
        reads.schedule(connection, [due])
        finishing.start()
        wait_until(lambda: _waits_for_a_lock(postgresql_desk), what="the other to wait")
    finishing.join(10)
    assert postgresql_desk.row(tables.reads)["version"] == 2


def _waits_for_a_lock(desk: Desk) -> bool:
    with desk.store.reading() as connection:
        return bool(connection.scalar(sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")))
