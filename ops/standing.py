"""The whole story of an event or an entity: received, queued, folded, read, what it changed, and whose jobs ran.

Of people it tells ids and the names of columns, never a value.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis
import sqlalchemy as sa
from rq.utils import as_text
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from bridge import events as catalogue
from bridge import queues
from bridge.events import ROOT_DEPARTMENT, Entity, Event
from ops.userjobs import jobs_of
from workers.moment import SECOND
from workers.pending import waiting
from workers.refresh import GUARDED
from workers.replay import rebuilt
from workers.store import tables
from workers.store.draft import SILENT_COLUMNS, ChangeKind
from workers.store.engine import Store
from workers.store.naming import ID_COLUMNS, names
from workers.store.statements import given_keys, matching
from workers.store.tables import changes, events, reads

#: Changes that are shown of one entity, and events that name it; the newest.
SHOWN = 20
#: In place of a row.
_UNREAD: Mapping[str, Any] = {"fetched_at": None, "deleted_at": None}


class _Kind(NamedTuple):
    """A kind of entity: its table, the column of its id, and where an event names it, if it can."""

    name: ChangeKind
    table: Table
    key: str
    named: str | None

    def names(self, event: Event, entity_id: str) -> bool:
        return self.named is not None and entity_id in map(str, getattr(event, self.named))

    def read(self, corp_id: str, entity_id: str) -> Entity:
        """What is read to know it."""
        if self.name == "corp":
            return Entity(corp_id, "department", str(ROOT_DEPARTMENT))
        if self.name == "user" or self.name == "department":
            return Entity(corp_id, self.name, entity_id)
        return Entity(corp_id, "roles", "")


_KINDS = (
    _Kind("user", tables.users, "userid", "user_ids"),
    _Kind("department", tables.departments, "dept_id", "dept_ids"),
    _Kind("role", tables.roles, "role_id", "role_ids"),
    _Kind("role_group", tables.role_groups, "group_id", "role_ids"),
    _Kind("corp", tables.corps, "corp_id", None),
)


def standing(identifier: str, connection: redis.Redis, store: Store) -> dict[str, Any] | None:
    """What is known of an event's id or of an entity's; None where it is neither."""
    with store.reading() as sql:
        event = _event(identifier, connection, sql)
        if event is not None:
            return event
        entities = list(_entities(identifier, connection, sql))
    return {"id": identifier, "entities": entities} if entities else None


def _event(event_id: str, connection: redis.Redis, sql: Connection) -> dict[str, Any] | None:
    row = sql.execute(sa.select(events).where(events.c.id == event_id)).mappings().first()
    waiting = _queued(event_id, connection)
    if row is None and waiting is None:
        return None
    found: dict[str, Any] = {"id": event_id, "status": "waiting"}
    if row is not None:
        shown = ("type", "app", "corp_id", "via", "status", "error", "occurred_at", "received_at", "applied_at")
        found |= {name: row[name] for name in (*shown, "folded_into")}
    if waiting is not None:
        event, queued = waiting
        if row is None and event is not None:
            found |= {name: getattr(event, name) for name in ("type", "app", "corp_id", "via")}
            found["received_at"] = queued["queued_at"]
        found |= queued
    told = rebuilt(dict(row), "replay", b"null") if row is not None else waiting and waiting[0]
    found["reads"] = [_read(sql, entity) for entity in catalogue.entities(told)] if told else []
    query = sa.select(changes).where(changes.c.event_id == event_id).order_by(changes.c.seq)
    rows = [dict(change) for change in sql.execute(query).mappings()]
    found["changes"] = [_change(change) for change in rows]
    found["jobs"] = jobs_of(event_id, [change["seq"] for change in rows], connection, sql)
    return found


def _queued(event_id: str, connection: redis.Redis) -> tuple[Event | None, dict[str, Any]] | None:
    """The event's job as it lies in Redis; None where it does not."""
    job = catalogue.job_id(event_id)
    wanted = ("data", "origin", "status", "number_of_retries", "stamp")
    data, origin, status, attempts, stamp = connection.hmget(f"rq:job:{job}", wanted)
    if not status:
        return None
    try:
        event = queues.decode(data if isinstance(data, bytes) else b"")
    except ValueError:
        event = None  # no worker can read it either, and its own failure says so
    queue = as_text(origin or b"")
    due = connection.zscore(f"rq:scheduled:{queue}", job)
    return event, {
        "queue": queue,
        "job": as_text(status),
        "queued_at": datetime.fromtimestamp(int(stamp) / SECOND, UTC) if stamp else None,
        "attempts": int(attempts or 0),
        "next_attempt": None if due is None else datetime.fromtimestamp(due, UTC),
        "replay": event is not None and event.replayed,
    }


def _entities(entity_id: str, connection: redis.Redis, sql: Connection) -> Iterator[dict[str, Any]]:
    """Every entity of that id, whatever its kind and its corp; of one without a row, what waits in Redis."""
    queued = [event for event in waiting(connection) if any(kind.names(event, entity_id) for kind in _KINDS)]
    for kind in _KINDS:
        column = kind.table.c[kind.key]
        numeric = not isinstance(column.type, sa.Text)
        if numeric and not (entity_id.isdecimal() and int(entity_id) < 2**63):
            continue
        query = sa.select(kind.table).where(column == (int(entity_id) if numeric else entity_id))
        rows = {row["corp_id"]: dict(row) for row in sql.execute(query).mappings()}
        naming = [event for event in queued if kind.names(event, entity_id)]
        # An event that names a role may mean a group.
        unknown = {event.corp_id for event in naming if event.corp_id} if kind.name != "role_group" else set()
        for corp_id in [*rows, *sorted(unknown - rows.keys())]:
            mine = [event for event in naming if event.corp_id == corp_id]
            yield _entity(kind, entity_id, corp_id, rows.get(corp_id, _UNREAD), mine, connection, sql)


def _entity(
    kind: _Kind,
    entity_id: str,
    corp_id: str,
    row: Mapping[str, Any],
    queued: Sequence[Event],
    connection: redis.Redis,
    sql: Connection,
) -> dict[str, Any]:
    same = (changes.c.corp_id == corp_id, changes.c.entity == kind.name, changes.c.entity_id == entity_id)
    latest = sa.select(changes).where(*same).order_by(changes.c.seq.desc()).limit(SHOWN)
    rows = [dict(change) for change in sql.execute(latest).mappings()]
    return {
        "entity": kind.name,
        "corp_id": corp_id,
        "fetched_at": row["fetched_at"],
        "deleted_at": row["deleted_at"],
        "visible": row.get("visible", True),
        "read": _read(sql, kind.read(corp_id, entity_id)),
        "events": [*map(_waiting, queued[:SHOWN]), *_naming(sql, kind, corp_id, entity_id, {one.id for one in queued})],
        "changes": [_change(change) for change in rows],
        "jobs": jobs_of(None, [change["seq"] for change in rows], connection, sql),
    }


def _waiting(event: Event) -> dict[str, Any]:
    return {"id": event.id, "type": event.type, "status": "waiting", "received_at": None}


def _naming(
    sql: Connection, kind: _Kind, corp_id: str, entity_id: str, queued: Collection[str]
) -> list[dict[str, Any]]:
    """The newest recorded events that name the entity, without those that lie in Redis."""
    listed = "role" if kind.name == "role_group" else kind.name
    if listed not in ID_COLUMNS:
        return []
    wanted = (events.c.id, events.c.type, events.c.status, events.c.received_at)
    named = names(sql, listed, entity_id if listed == "user" else int(entity_id))
    query = sa.select(*wanted).where(events.c.corp_id == corp_id, named)
    latest = query.order_by(events.c.received_at.desc()).limit(SHOWN)
    return [dict(row) for row in sql.execute(latest).mappings() if row["id"] not in queued]


def _read(sql: Connection, entity: Entity) -> dict[str, Any]:
    """When and for which event it was last read, and whether another read is due."""
    table, key_of = GUARDED[entity.kind]
    dialect = sql.dialect.name
    guard = sa.select(table.c.read_begun, table.c.read_event_id).where(matching(dialect, table))
    mine = given_keys(table.primary_key.columns, [key_of(entity)])
    begun, event_id = sql.execute(guard, mine).one_or_none() or (None, None)
    due = sa.select(reads.c.cause, reads.c.due_at, reads.c.event_id, reads.c.attempts, reads.c.error)
    mine = given_keys(reads.primary_key.columns, [entity])
    noted = sql.execute(due.where(matching(dialect, reads)), mine).mappings().one_or_none()
    return {
        "kind": entity.kind,
        "id": entity.id,
        "at": _time(begun),
        "event_id": event_id,
        "due": {**noted, "due_at": _time(noted["due_at"])} if noted else None,
    }


def _time(micros: int | None) -> datetime | None:
    return None if micros is None else datetime.fromtimestamp(micros / SECOND, UTC)


def _change(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change by the names of what changed, without the values: those are people's data."""
    before, after = change["before"] or {}, change["after"] or {}
    differing = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return {
        "seq": change["seq"],
        "changed_at": change["changed_at"],
        "what": f"{change['entity']} {change['operation']}",
        "id": change["entity_id"],
        "columns": [name for name in differing if name not in SILENT_COLUMNS] if before and after else [],
        "event_id": change["event_id"],
    }
