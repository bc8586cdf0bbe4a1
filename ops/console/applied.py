"""What lies in the datastore: the events and what became of them, reads that are due, and how many rows live.

Never a name, a userid or a payload: of people there are counts alone.
"""

import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bridge.events import job_id
from workers.moment import SECOND
from workers.store.draft import SILENT_COLUMNS
from workers.store.tables import changes, comparisons, corps, departments, events, reads, roles, users

#: Rows of `events` that are shown at once.
SHOWN_EVENTS = 30
#: Changes of one event that are shown.
SHOWN_CHANGES = 200
#: Corps that are shown, those with the most people.
SHOWN_CORPS = 20
#: Events of the last hour from which the lag is taken, the latest ones.
LAG_SAMPLE = 500
#: What an event's row may say.
STATUSES = ("applied", "folded", "ignored", "failed")

_SHOWN = ("id", "type", "app", "corp_id", "via", "status", "error", "occurred_at", "received_at", "applied_at")


class EventRow(NamedTuple):
    """One event without what it says of people, but for its id: a pushed row's names whom it is about."""

    id: str
    type: str
    app: str
    corp_id: str | None
    via: str
    status: str
    error: str | None
    occurred_at: datetime | None
    received_at: datetime
    applied_at: datetime | None

    @property
    def shown_id(self) -> str:
        """The id of the event's job, which names nobody."""
        return job_id(self.id)

    @property
    def lag(self) -> float | None:
        """Seconds from its acceptance to the commit of what it told."""
        return None if self.applied_at is None else max(0.0, (self.applied_at - self.received_at).total_seconds())

    @property
    def at(self) -> int:
        """Microseconds since 1970 at which it was accepted."""
        return round(self.received_at.timestamp() * SECOND)


class ChangeRow(NamedTuple):
    """What an event changed: the names of the columns, never their values."""

    seq: int
    entity: str
    operation: str
    columns: tuple[str, ...]
    changed_at: datetime


class Reads(NamedTuple):
    """Reads that no event asks for: all that wait, those whose time has come, those that failed before."""

    waiting: int
    due: int
    tried: int


class Lag(NamedTuple):
    """Seconds from acceptance to commit, of the last hour's latest events."""

    median: float
    p95: float
    most: float


class ComparisonRow(NamedTuple):
    """How the last comparison of a corp with DingTalk ended; reasons and counts, nobody's data."""

    corp_id: str
    outcome: str
    ended_at: datetime
    stopped: tuple[str, ...]
    faults: tuple[str, ...]


class CorpRow(NamedTuple):
    """How many rows of a corp live."""

    corp_id: str
    status: str
    users: int
    departments: int
    roles: int


def compared(connection: Connection) -> list[ComparisonRow]:
    """Each corp's last comparison, where there was one."""
    kept = comparisons.c
    query = sa.select(kept.corp_id, kept.outcome, kept.ended_at, kept.report).where(kept.outcome.is_not(None))
    return [
        ComparisonRow(corp_id, outcome, ended_at, tuple(report["stopped"]), tuple(report["faults"]))
        for corp_id, outcome, ended_at, report in connection.execute(query.order_by(kept.corp_id))
    ]


def latest(connection: Connection, status: str | None = None) -> list[EventRow]:
    """The events accepted last, the newest first; of one status or of all."""
    query = sa.select(*(events.c[name] for name in _SHOWN)).order_by(events.c.received_at.desc()).limit(SHOWN_EVENTS)
    if status:
        query = query.where(events.c.status == status)
    return [EventRow(*row) for row in connection.execute(query)]


def find_event(connection: Connection, identifier: str, at: int | None) -> EventRow | None:
    """The event of that id; where `at` (µs) tells its acceptance also by the id of its job."""
    query = sa.select(*(events.c[name] for name in _SHOWN))
    row = connection.execute(query.where(events.c.id == identifier)).first()
    if row is not None:
        return EventRow(*row)
    if at is None:
        return None
    try:
        moment = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at)
    except OverflowError:
        return None
    found = (EventRow(*row) for row in connection.execute(query.where(events.c.received_at == moment)))
    return next((event for event in found if event.shown_id == identifier), None)


def changes_of(connection: Connection, event_id: str) -> list[ChangeRow]:
    """What this event changed, in its order."""
    columns = (changes.c.seq, changes.c.entity, changes.c.operation, changes.c.changed_at)
    query = sa.select(*columns, changes.c.before, changes.c.after).where(changes.c.event_id == event_id)
    rows = connection.execute(query.order_by(changes.c.seq).limit(SHOWN_CHANGES))
    return [
        ChangeRow(row.seq, row.entity, row.operation, _differing(row.before, row.after), row.changed_at) for row in rows
    ]


def counts(connection: Connection) -> dict[str, tuple[int, int]]:
    """For each status how many events were accepted in the last hour, and in the last day."""
    now = datetime.now(UTC)
    recent = sa.func.sum(sa.case((events.c.received_at >= now - timedelta(hours=1), 1), else_=0))
    query = (
        sa.select(events.c.status, recent, sa.func.count())
        .where(events.c.received_at >= now - timedelta(days=1))
        .group_by(events.c.status)
    )
    return dict.fromkeys(STATUSES, (0, 0)) | {
        status: (int(hour), int(day)) for status, hour, day in connection.execute(query)
    }


def lag(connection: Connection) -> Lag | None:
    """How far the datastore was behind lately; None where no event was applied in the last hour."""
    query = (
        sa.select(events.c.received_at, events.c.applied_at)
        .where(events.c.applied_at.is_not(None), events.c.received_at >= datetime.now(UTC) - timedelta(hours=1))
        .order_by(events.c.received_at.desc())
        .limit(LAG_SAMPLE)
    )
    seconds = sorted(max(0.0, (done - begun).total_seconds()) for begun, done in connection.execute(query))
    if not seconds:
        return None
    return Lag(statistics.median(seconds), seconds[int(0.95 * (len(seconds) - 1))], seconds[-1])


def reads_noted(connection: Connection) -> Reads:
    """The reads that wait."""
    now = round(datetime.now(UTC).timestamp() * SECOND)
    due = sa.func.coalesce(sa.func.sum(sa.case((reads.c.due_at <= now, 1), else_=0)), 0)
    tried = sa.func.coalesce(sa.func.sum(sa.case((reads.c.attempts > 0, 1), else_=0)), 0)
    waiting, ready, again = connection.execute(sa.select(sa.func.count(), due, tried).select_from(reads)).one()
    return Reads(int(waiting), int(ready), int(again))


def totals(connection: Connection) -> list[CorpRow]:
    """Every corp, the largest first."""
    living = [_living(connection, table) for table in (users, departments, roles)]
    known = {row.corp_id: row.status for row in connection.execute(sa.select(corps.c.corp_id, corps.c.status))}
    every = known.keys() | living[0].keys() | living[1].keys() | living[2].keys()
    rows = [CorpRow(corp, known.get(corp, "active"), *(count.get(corp, 0) for count in living)) for corp in every]
    return sorted(rows, key=lambda row: (-row.users, row.corp_id))


def _living(connection: Connection, table: sa.Table) -> dict[str, int]:
    query = sa.select(table.c.corp_id, sa.func.count()).where(table.c.deleted_at.is_(None)).group_by(table.c.corp_id)
    return {corp: int(number) for corp, number in connection.execute(query)}


def _differing(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Of an update the columns that differ; a row that comes or goes has none to name."""
    if before is None or after is None:
        return ()
    names: Sequence[str] = sorted(before.keys() | after.keys())
    return tuple(name for name in names if name not in SILENT_COLUMNS and before.get(name) != after.get(name))
