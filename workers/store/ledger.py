"""What happened: the final rows of events, the log of changes, and the jobs owed and done for both."""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bridge.events import REPLAY, Event
from workers.store.draft import Change
from workers.store.statements import given, given_keys, having, insert_ignoring, inserting
from workers.store.tables import changes, events, finished_jobs, outbox

#: Seconds since 1970 beyond which there is no date: the year 9999.
_END_OF_TIME = 253_370_764_800


#: What is known of a change before it has its number.
_LOGGED = [column for column in changes.c if column is not changes.c.seq]

Status = Literal["applied", "folded", "ignored", "failed"]


class Verdict(NamedTuple):
    """An event's final status, with the reason where there is one to give."""

    event: Event
    stamp: int  # Redis' microseconds at which it was accepted
    status: Status
    error: str | None = None
    #: Of a folded one: the events whose reads covered it.
    folded_into: tuple[str, ...] = ()


class Owed(NamedTuple):
    """A job owed to a user's function; jobs of one lane keep their order."""

    function: str
    queue: str
    lane: str
    event_id: str | None = None
    change_seq: int | None = None


def settled(connection: Connection, event_ids: Collection[str]) -> set[str]:
    """Those of these events that have a final row which nothing replaces."""
    if not event_ids:
        return set()
    parameter = given_keys([events.c.id], ((event_id,) for event_id in event_ids))
    return set(connection.scalars(_settled(connection.dialect.name), parameter))


@cache
def _settled(dialect: str) -> sa.Select[Any]:
    return sa.select(events.c.id).where(having(dialect, [events.c.id]), events.c.status != "failed")


def record(connection: Connection, verdicts: Iterable[Verdict], at: datetime) -> set[str]:
    """Write the final rows; the ids of those that are new. A `failed` row alone gives way to another."""
    rows = {
        verdict.event.id: {
            "id": verdict.event.id,
            "app": verdict.event.app,
            "corp_id": verdict.event.corp_id,
            "type": verdict.event.type,
            "via": REPLAY if verdict.event.replayed else verdict.event.via,
            "occurred_at": _time(verdict.event.occurred_at, 1000),
            "received_at": _time(verdict.stamp, 1_000_000),
            "applied_at": at if verdict.status in ("applied", "folded") else None,
            "status": verdict.status,
            "error": verdict.error,
            "payload": verdict.event.payload,
            "user_ids": verdict.event.user_ids,
            "dept_ids": verdict.event.dept_ids,
            "role_ids": verdict.event.role_ids,
            "folded_into": verdict.folded_into if verdict.status == "folded" else None,
        }
        for verdict in verdicts
    }
    if not rows:
        return set()
    parameter = given(events.c, [rows[event_id] for event_id in sorted(rows)])
    return set(connection.scalars(_record(connection.dialect.name), parameter))


@cache
def _record(dialect: str) -> Any:
    insert = inserting(dialect, events, list(events.c.keys()))
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[events.c.id],
        set_={name: new[name] for name in ("status", "error", "applied_at", "folded_into")},
        where=events.c.status == "failed",
    ).returning(events.c.id)


def log_changes(connection: Connection, found: Sequence[Change], at: datetime) -> list[int]:
    """Write the changes in their order; the seq of each."""
    if not found:
        return []
    rows = [change._asdict() | {"changed_at": at} for change in found]
    for row in rows:
        del row["quiet"]
    # They are numbered as they are given; in which order the numbers come back nobody promises.
    return sorted(connection.scalars(_log(connection.dialect.name), given(_LOGGED, rows)))


@cache
def _log(dialect: str) -> Any:
    return inserting(dialect, changes, [column.name for column in _LOGGED]).returning(changes.c.seq)


def owe(connection: Connection, jobs: Sequence[Owed]) -> None:
    """Note jobs that users' functions are owed."""
    insert_ignoring(connection, outbox, [job._asdict() for job in jobs])


def finish_jobs(connection: Connection, outbox_ids: Collection[int], at: datetime) -> None:
    """Note that these jobs were done; whoever else did one at the same time has noted it."""
    kept = ("id", "function", "event_id", "change_seq")
    done = sa.delete(outbox).where(outbox.c.id.in_(outbox_ids)).returning(*(outbox.c[name] for name in kept))
    rows = [row | {"finished_at": at} for row in map(dict, connection.execute(done).mappings())]
    if rows:
        connection.execute(sa.insert(finished_jobs), rows)


def _time(count: int | None, per_second: int) -> datetime | None:
    seconds = None if count is None else count / per_second
    return None if seconds is None or not 0 <= seconds < _END_OF_TIME else datetime.fromtimestamp(seconds, UTC)
