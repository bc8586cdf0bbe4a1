"""Where an event or an entity stands: received, queued, applied, and what it changed."""

from typing import Any

import redis
import sqlalchemy as sa
from rq.utils import as_text
from sqlalchemy.engine import Connection

from bridge import events as catalogue
from workers.store.draft import SILENT_COLUMNS
from workers.store.engine import Store
from workers.store.tables import changes, departments, events, reads, roles, users

#: Changes that are shown of one entity, the newest first.
SHOWN_CHANGES = 20


def standing(identifier: str, connection: redis.Redis, store: Store) -> dict[str, Any] | None:
    """What is known of an event's id or of an entity's; None where it is neither."""
    with store.reading() as sql:
        event = _event(identifier, connection, sql)
        if event is not None:
            return event
        entities = _entities(identifier, sql)
    return {"id": identifier, "entities": entities} if entities else None


def _event(event_id: str, connection: redis.Redis, sql: Connection) -> dict[str, Any] | None:
    row = sql.execute(sa.select(events).where(events.c.id == event_id)).mappings().first()
    names = ("origin", "status", "number_of_retries")
    queue, job, attempts = connection.hmget(f"rq:job:{catalogue.job_id(event_id)}", names)
    if row is None and not job:
        return None
    found: dict[str, Any] = {"id": event_id}
    if job:
        found |= {"queue": as_text(queue or b""), "job": as_text(job), "attempts": int(attempts or 0)}
    if row is not None:
        shown = ("type", "app", "corp_id", "via", "status", "error", "occurred_at", "received_at", "applied_at")
        found |= {name: row[name] for name in shown}
        query = sa.select(changes).where(changes.c.event_id == event_id).order_by(changes.c.seq)
        found["changes"] = [_change(dict(change)) for change in sql.execute(query).mappings()]
    else:
        found["status"] = "waiting"
    return found


def _entities(entity_id: str, sql: Connection) -> list[dict[str, Any]]:
    """Every user, department and role of that id, whatever its corp."""
    found: list[dict[str, Any]] = []
    for table, kind, column in (
        (users, "user", users.c.userid),
        (departments, "department", departments.c.dept_id),
        (roles, "role", roles.c.role_id),
    ):
        numeric = kind != "user"
        if numeric and not (entity_id.isdigit() and len(entity_id) < 19):
            continue
        query = sa.select(table).where(column == (int(entity_id) if numeric else entity_id))
        found += [_entity(sql, kind, entity_id, dict(row)) for row in sql.execute(query).mappings()]
    return found


def _entity(sql: Connection, kind: str, entity_id: str, row: dict[str, Any]) -> dict[str, Any]:
    same = (changes.c.corp_id == row["corp_id"], changes.c.entity == kind, changes.c.entity_id == entity_id)
    latest = sa.select(changes).where(*same).order_by(changes.c.seq.desc()).limit(SHOWN_CHANGES)
    due = sa.select(reads.c.cause, reads.c.error).where(
        reads.c.corp_id == row["corp_id"], reads.c.kind == kind, reads.c.entity_id == entity_id
    )
    waiting = sql.execute(due).mappings().first()
    return {
        "entity": kind,
        "corp_id": row["corp_id"],
        "fetched_at": row["fetched_at"],
        "deleted_at": row["deleted_at"],
        "visible": row.get("visible", True),
        "read_due": dict(waiting) if waiting else None,
        "changes": [_change(dict(change)) for change in sql.execute(latest).mappings()],
    }


def _change(change: dict[str, Any]) -> dict[str, Any]:
    """A change by the names of what changed, without the values: those are people's data."""
    before, after = change["before"] or {}, change["after"] or {}
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return {
        "seq": change["seq"],
        "changed_at": change["changed_at"],
        "what": f"{change['entity']} {change['operation']}",
        "columns": [name for name in names if name not in SILENT_COLUMNS] if before and after else [],
        "event_id": change["event_id"],
    }
