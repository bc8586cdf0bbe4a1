"""Recorded events, rebuilt from their rows so that they can be fed in again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bridge.events import REPLAY, REPLAY_WITH_JOBS, Event, Via
from workers.store.engine import Store
from workers.store.ledger import Status
from workers.store.naming import names
from workers.store.tables import events

#: Events that are read, and fed in, at a time.
PAGE = 200

_UNKNOWN = "no such event is recorded"
_ERASED = "its payload is no longer kept"


class Named(NamedTuple):
    """A user, department or role that events name."""

    kind: str
    id: str | int


@dataclass(frozen=True)
class Selection:
    """Which events: these ids, or all that every given filter lets through. `until` itself is not among them."""

    ids: Sequence[str] = ()
    types: Sequence[str] = ()
    corp_id: str | None = None
    entities: Sequence[Named] = ()
    status: Status | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class Page:
    """Some events as they came, and what cannot be fed in again, with the reason."""

    events: Sequence[Event] = ()
    lost: Mapping[str, str] = field(default_factory=dict)


def recorded(store: Store, selection: Selection, with_jobs: bool) -> Iterator[Page]:
    """The selected events, page by page in the order they were received; whoever feeds them in holds one page.

    `with_jobs` lets them run users' functions again.
    """
    pages = _by_id(store, selection.ids) if selection.ids else _by_filter(store, selection)
    via: Via = REPLAY_WITH_JOBS if with_jobs else REPLAY
    for rows, unknown in pages:
        lost = {row["id"]: _ERASED for row in rows if row["payload"] is None}
        kept = [rebuilt(row, via, row["payload"].encode()) for row in rows if row["payload"] is not None]
        yield Page(kept, dict.fromkeys(unknown, _UNKNOWN) | lost)


def _by_id(store: Store, ids: Sequence[str]) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """The rows of these events in the order given, and the ids that have none."""
    wanted = list(dict.fromkeys(ids))
    for at in range(0, len(wanted), PAGE):
        some = wanted[at : at + PAGE]
        with store.reading() as connection:
            found = {row["id"]: row for row in _rows(connection, _recorded().where(events.c.id.in_(some)))}
        yield [found[name] for name in some if name in found], [name for name in some if name not in found]


def _by_filter(store: Store, selection: Selection) -> Iterator[tuple[list[dict[str, Any]], list[str]]]:
    """Each page is a short transaction of its own that begins after the last row of the page before it."""
    order = (events.c.received_at, events.c.id)
    query = _recorded().order_by(*order).limit(PAGE)
    after: sa.ColumnElement[bool] = sa.true()
    while True:
        with store.reading() as connection:
            rows = _rows(connection, query.where(after, *_conditions(connection, selection)))
        if not rows:
            return
        yield rows, []
        after = sa.tuple_(*order) > (rows[-1]["received_at"], rows[-1]["id"])


def _conditions(connection: Connection, selection: Selection) -> Iterator[sa.ColumnElement[bool]]:
    if selection.types:
        yield events.c.type.in_(selection.types)
    if selection.corp_id is not None:
        yield events.c.corp_id == selection.corp_id
    if selection.entities:
        yield sa.or_(*(names(connection, *entity) for entity in selection.entities))
    if selection.status is not None:
        yield events.c.status == selection.status
    if selection.since is not None:
        yield events.c.received_at >= selection.since
    if selection.until is not None:
        yield events.c.received_at < selection.until


def _recorded() -> sa.Select[Any]:
    """What an event is rebuilt from; its payload letter for letter as it came."""
    columns = [column for column in events.c if column is not events.c.payload]
    return sa.select(*columns, sa.cast(events.c.payload, sa.Text).label("payload"))


def _rows(connection: Connection, query: sa.Select[Any]) -> list[dict[str, Any]]:
    return [dict(row) for row in connection.execute(query).mappings()]


def rebuilt(row: Mapping[str, Any], via: Via, payload: bytes) -> Event:
    """The event of a row of `events`."""
    return Event(
        id=row["id"],
        type=row["type"],
        app=row["app"],
        corp_id=row["corp_id"],
        via=via,
        occurred_at=None if row["occurred_at"] is None else round(row["occurred_at"].timestamp() * 1000),
        user_ids=tuple(row["user_ids"]),
        dept_ids=tuple(row["dept_ids"]),
        role_ids=tuple(row["role_ids"]),
        payload=msgspec.Raw(payload),
    )
