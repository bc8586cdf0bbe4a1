"""Tables `suites` and `authorizations`: each suite's newest ticket, and which corps let it in."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workers.store.statements import upsert
from workers.store.tables import authorizations, suites

#: Seconds after which a ticket is too old: DingTalk pushes a new one about every five hours (KB-E/0242).
OLD_TICKET = 6 * 3600.0
#: `stopped`: the corp has switched the app off; `revoked`: it has withdrawn its authorisation.
Status = Literal["active", "stopped", "revoked"]


class Ticket(NamedTuple):
    """A suite's ticket, and when DingTalk made it."""

    ticket: str
    at: datetime


class Authorized(NamedTuple):
    """A row of `authorizations`; the permanent code is sealed, `told_at` DingTalk's milliseconds."""

    suite_key: str
    corp_id: str
    permanent_code: str | None
    status: Status
    agents: Sequence[Mapping[str, Any]] | None
    scope: Mapping[str, Any] | None
    told_at: int


def keep_ticket(connection: Connection, suite_key: str, ticket: Ticket) -> None:
    """Keep a ticket unless a newer one is kept already."""
    insert = upsert(connection.dialect.name, suites)
    new, old = insert.excluded, suites.c
    statement = insert.on_conflict_do_update(
        index_elements=[old.suite_key],
        set_={"ticket": new.ticket, "ticket_at": new.ticket_at},
        where=sa.or_(old.ticket_at.is_(None), old.ticket_at <= new.ticket_at),
    )
    connection.execute(statement, [{"suite_key": suite_key, "ticket": ticket.ticket, "ticket_at": ticket.at}])


def ticket_of(connection: Connection, suite_key: str) -> str | None:
    """The suite's newest ticket; None where none has come."""
    ticket: str | None = connection.scalar(sa.select(suites.c.ticket).where(suites.c.suite_key == suite_key))
    return ticket


def ticket_times(connection: Connection) -> dict[str, datetime | None]:
    """When DingTalk made the newest ticket of each suite that has one."""
    query = sa.select(suites.c.suite_key, suites.c.ticket_at).where(suites.c.ticket.is_not(None))
    return {row.suite_key: row.ticket_at for row in connection.execute(query)}


def ticket_age(at: datetime | None) -> float | None:
    """Seconds since then; None where there is no ticket."""
    return None if at is None else max(0.0, (datetime.now(UTC) - at).total_seconds())


def authorized(connection: Connection, corp_ids: Collection[str]) -> list[Authorized]:
    """Every authorisation that these corps have given."""
    columns = [authorizations.c[name] for name in Authorized._fields]
    query = sa.select(*columns).where(authorizations.c.corp_id.in_(corp_ids))
    return [Authorized(*row) for row in connection.execute(query)]


def letting_in(connection: Connection, corp_ids: Collection[str]) -> dict[str, set[str]]:
    """The keys of the suites that each of these corps lets in."""
    found: dict[str, set[str]] = {}
    for row in authorized(connection, corp_ids):
        if row.status == "active":
            found.setdefault(row.corp_id, set()).add(row.suite_key)
    return found


def active_corps(connection: Connection, suite_keys: Collection[str]) -> list[str]:
    """The corps that let one of these suites in."""
    query = sa.select(authorizations.c.corp_id).distinct().where(
        authorizations.c.suite_key.in_(suite_keys), authorizations.c.status == "active"
    )  # fmt: skip
    return sorted(connection.scalars(query))


def turned_away(connection: Connection) -> set[str]:
    """The corps that have let a suite in once, and now keep one out."""
    query = sa.select(authorizations.c.corp_id).where(authorizations.c.status != "active")
    return set(connection.scalars(query))


def write(connection: Connection, suite_key: str, corp_id: str, at: datetime, **values: Any) -> None:
    """Make the row of an authorisation, or change these columns of it; whoever writes holds the corp's fence."""
    row = {"suite_key": suite_key, "corp_id": corp_id, "updated_at": at} | values
    insert = upsert(connection.dialect.name, authorizations)
    changed = {name: insert.excluded[name] for name in row if name not in ("suite_key", "corp_id")}
    keys = [authorizations.c.suite_key, authorizations.c.corp_id]
    connection.execute(insert.on_conflict_do_update(index_elements=keys, set_=changed), [row])
