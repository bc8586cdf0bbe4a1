"""Calls for the failed list: noted before they are made, with the raw reply, until all of its events are accepted."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workers.store.tables import failed_lists

#: Characters of an error that are kept.
ERROR_LENGTH = 1000


class Reply(NamedTuple):
    """What came of a call; `body` is None where no reply is stored."""

    app: str
    body: bytes | None


class Unfinished(NamedTuple):
    """A call that is under way, was broken off, or whose reply is not taken yet."""

    id: int
    app: str
    asked_at: datetime
    answered: bool


def begin(connection: Connection, app: str, at: datetime) -> int:
    """Note that this app's list is about to be asked for; the call's id."""
    statement = sa.insert(failed_lists).values(app=app, asked_at=at).returning(failed_lists.c.id)
    number: int = connection.execute(statement).scalar_one()
    return number


def keep(connection: Connection, call: int, body: bytes, at: datetime) -> None:
    """Store a reply as it came, however late it is."""
    stored = {"body": body, "fetched_at": at, "taken_at": None, "error": None}
    connection.execute(sa.update(failed_lists).where(failed_lists.c.id == call).values(stored))


def finish(connection: Connection, call: int, at: datetime, error: str | None) -> None:
    """A call needs nothing more; `error` says what could not be done or read."""
    told = {"taken_at": at, "error": error and error[:ERROR_LENGTH]}
    connection.execute(sa.update(failed_lists).where(failed_lists.c.id == call).values(told))


def unfinished(connection: Connection) -> Sequence[Unfinished]:
    """The calls that still need something, oldest first."""
    table = failed_lists.c
    answered = table.body.is_not(None).label("answered")
    query = sa.select(table.id, table.app, table.asked_at, answered).where(table.taken_at.is_(None)).order_by(table.id)
    return [Unfinished(*row) for row in connection.execute(query)]


def reply(connection: Connection, call: int) -> Reply:
    """What came of this call."""
    table = failed_lists.c
    row = connection.execute(sa.select(table.app, table.body).where(table.id == call)).one()
    return Reply(row.app, row.body)


def last_asked(connection: Connection) -> dict[str, datetime]:
    """When each app's list was asked for last."""
    table = failed_lists.c
    latest = sa.select(sa.func.max(table.id)).group_by(table.app)
    rows = connection.execute(sa.select(table.app, table.asked_at).where(table.id.in_(latest)))
    return {row.app: row.asked_at for row in rows}


def calls_since(connection: Connection, app: str, since: datetime) -> int:
    """How many calls this app has made since then."""
    table = failed_lists.c
    query = sa.select(sa.func.count()).where(table.app == app, table.asked_at >= since)
    return connection.execute(query).scalar_one()


def counts(connection: Connection) -> tuple[int, int]:
    """How many calls are not finished, and how many have something to tell."""
    table = failed_lists.c
    query = sa.select(
        sa.func.count().filter(table.taken_at.is_(None)), sa.func.count().filter(table.error.is_not(None))
    ).select_from(failed_lists)
    unfinished, faulty = connection.execute(query).one()
    return unfinished, faulty


def prune(connection: Connection, before: datetime) -> int:
    """Delete what was asked before then and is done; how many."""
    table = failed_lists.c
    statement = sa.delete(failed_lists).where(table.taken_at.is_not(None), table.asked_at < before)
    return connection.execute(statement).rowcount
