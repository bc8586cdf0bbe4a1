"""Table `reads`: what is due to be read though no event asks for it – echoes, marks, the frontier of a copy."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from bridge.events import Entity
from workers.store.statements import given, given_keys, having, insert_ignoring, inserting, key_columns, matching
from workers.store.tables import reads

#: Microseconds in which a read that was taken is left to its worker; longer than reads take, but for a copy without a
#: limit of calls while each takes more than 7 s: then some are made twice.
TAKEN_MICROSECONDS = 120_000_000

#: A read that is as it was when it was taken; with the parameters of `_key`.
_UNMOVED = (
    reads.c.corp_id == sa.bindparam("key_corp"),
    reads.c.kind == sa.bindparam("key_kind"),
    reads.c.entity_id == sa.bindparam("key_id"),
    reads.c.version == sa.bindparam("key_version"),
)
#: What is known of a read that was taken, and of one that is due.
_TAKEN = [*reads.primary_key.columns, reads.c.version]
_DUE = [*reads.primary_key.columns, reads.c.due_at, reads.c.priority, reads.c.cause, reads.c.event_id]


class Priority(IntEnum):
    """The lower goes first: what somebody waits for, before what merely has to be done."""

    EVENT = 0
    #: A comparison or a later copy asks for it: nobody waits, but users' functions are owed what it changes.
    HEAL = 5
    #: A first copy or a replay: quiet.
    COPY = 10


class Due(NamedTuple):
    """A read to be made: when (Redis' microseconds) and why."""

    entity: Entity
    due_at: int
    cause: str
    event_id: str | None = None
    priority: Priority = Priority.EVENT


class Taken(NamedTuple):
    """A read that this worker has taken, as it was then."""

    entity: Entity
    version: int
    attempts: int
    event_id: str | None
    priority: int


def schedule(connection: Connection, wanted: Iterable[Due]) -> None:
    """Note these reads. Of two due times the later wins, of two priorities the first, with its event."""
    best: dict[Entity, Due] = {}
    for due in wanted:
        known = best.get(due.entity, due)
        later = due if due.due_at > known.due_at else known
        first = due if due.priority < known.priority else known if known.priority < due.priority else later
        best[due.entity] = later._replace(priority=first.priority, event_id=first.event_id or later.event_id)
    if not best:
        return
    rows = [_row(due) for _, due in sorted(best.items())]
    connection.execute(_schedule(connection.dialect.name), given(_DUE, rows))


@cache
def _schedule(dialect: str) -> Any:
    insert = inserting(dialect, reads, [column.name for column in _DUE])
    new, old = insert.excluded, reads.c
    later = new.due_at > old.due_at
    laters_event = sa.case((later, new.event_id), else_=old.event_id)
    return insert.on_conflict_do_update(
        index_elements=[old.corp_id, old.kind, old.entity_id],
        set_={
            "due_at": sa.case((later, new.due_at), else_=old.due_at),
            "cause": sa.case((later, new.cause), else_=old.cause),
            "event_id": sa.case(
                (new.priority < old.priority, sa.func.coalesce(new.event_id, laters_event)),
                (old.priority < new.priority, sa.func.coalesce(old.event_id, laters_event)),
                else_=laters_event,
            ),
            "priority": sa.case((new.priority < old.priority, new.priority), else_=old.priority),
            # Whoever took the row before must leave it: there is something new to read.
            "version": old.version + 1,
            "taken_until": 0,
        },
    )


def add(connection: Connection, wanted: Iterable[Due]) -> int:
    """Note those of these reads that are not noted yet, and leave the others as they are; how many are new.

    For whoever has raised the fence: what is noted already is only written by a read that began since then.
    """
    return insert_ignoring(connection, reads, [_row(due) for due in sorted(wanted)])


def add_copy(connection: Connection, entities: Collection[Entity], due_at: int, priority: Priority) -> int:
    """Note reads of a full copy; how many are new. What is noted already stays, but what was tried in vain is due.

    Users come after all that is due at the same time: one whose department is not there yet would ask for it again.
    """
    keys = {(entity.corp_id, entity.kind, entity.id): entity for entity in sorted(entities)}
    if not keys:
        return 0
    these, primary = matching(connection.dialect.name, reads), list(reads.primary_key.columns)
    noted = connection.execute(sa.select(*primary).where(these), given_keys(primary, keys))
    known = {tuple(row) for row in noted}
    connection.execute(
        sa.update(reads)
        .where(these, reads.c.attempts > 0)
        .values(due_at=due_at, attempts=0, taken_until=0, version=reads.c.version + 1),
        given_keys(primary, known),
    )
    new = [
        dict(zip(key_columns(reads), key, strict=True))
        | {"due_at": due_at + (key[1] == "user"), "priority": int(priority), "cause": "copy"}
        for key in keys
        if key not in known
    ]
    insert_ignoring(connection, reads, new)
    return len(new)


def revive(connection: Connection, corp_id: str, now: int, *, taken: bool) -> None:
    """What no event led to and was tried in vain is due at `now`; where `taken`, also what a process had taken."""
    tried = sa.or_(reads.c.attempts > 0, sa.and_(sa.literal(taken), reads.c.taken_until > now))
    bulk = sa.or_(reads.c.priority >= int(Priority.HEAL), reads.c.event_id.is_(None))
    connection.execute(
        sa.update(reads)
        .where(reads.c.corp_id == corp_id, bulk, tried)
        .values(due_at=now, attempts=0, taken_until=0, version=reads.c.version + 1)
    )


def given_up(connection: Connection, corp_id: str, attempts: int) -> dict[Entity, str]:
    """What no event led to and was tried so often in vain, by whom ever, with the reason."""
    mine = (reads.c.corp_id == corp_id, reads.c.event_id.is_(None), reads.c.attempts >= attempts)
    found = connection.execute(sa.select(reads.c.kind, reads.c.entity_id, reads.c.error).where(*mine))
    return {Entity(corp_id, row.kind, row.entity_id): row.error or "" for row in found}


def take(connection: Connection, now: int, limit: int, priority: Priority, corp_id: str | None = None) -> list[Taken]:
    """Up to `limit` reads that are due at `now` (Redis' microseconds) and that no worker is at.

    None that is less urgent than `priority`; of one corp, or of all.
    """
    told = {"now": now, "most": limit, "least_urgent": int(priority), "corp": corp_id}
    rows = connection.execute(_due(of_one=corp_id is not None), told).all()
    if not rows:
        return []
    keys = given_keys(reads.primary_key.columns, (tuple(row[:3]) for row in rows))
    connection.execute(_hold(connection.dialect.name), keys | {"until": now + TAKEN_MICROSECONDS})
    return [Taken(Entity(*row[:3]), *row[3:]) for row in rows]


@cache
def _due(*, of_one: bool) -> sa.Select[Any]:
    now: sa.BindParameter[int] = sa.bindparam("now")
    return (
        sa.select(*reads.primary_key.columns, *(reads.c[name] for name in Taken._fields[1:]))
        .where(reads.c.due_at <= now, reads.c.taken_until <= now, reads.c.priority <= sa.bindparam("least_urgent"))
        .where(reads.c.corp_id == sa.bindparam("corp") if of_one else sa.true())
        .order_by(reads.c.priority, reads.c.due_at)
        .limit(sa.bindparam("most"))
        .with_for_update(skip_locked=True)
    )


@cache
def _hold(dialect: str) -> sa.Update:
    return sa.update(reads).where(matching(dialect, reads)).values(taken_until=sa.bindparam("until"))


def finish(connection: Connection, done: Sequence[Taken]) -> None:
    """Delete these reads, each only if it is as it was when it was taken."""
    if done:
        keys = ((*read.entity, read.version) for read in sorted(done))
        connection.execute(_finish(connection.dialect.name), given_keys(_TAKEN, keys))


@cache
def _finish(dialect: str) -> sa.Delete:
    return sa.delete(reads).where(having(dialect, _TAKEN))


def drop(connection: Connection, corp_id: str) -> None:
    """Forget all reads of a corp for which no more work is done."""
    connection.execute(sa.delete(reads).where(reads.c.corp_id == corp_id))


def postpone(
    connection: Connection,
    failed: Mapping[Taken, str],
    due_at: Mapping[Taken, int],
    charged: bool,
    lowered: bool = False,
) -> None:
    """Put these reads off, each with the reason; `charged` counts an attempt, `lowered` lets events go first."""
    if not failed:
        return
    statement = (
        sa.update(reads)
        .where(*_UNMOVED)
        .values(
            due_at=sa.bindparam("new_due_at"),
            error=sa.bindparam("new_error"),
            attempts=reads.c.attempts + int(charged),
            priority=sa.case(
                (sa.and_(sa.literal(lowered), reads.c.priority < int(Priority.HEAL)), int(Priority.HEAL)),
                else_=reads.c.priority,
            ),
            taken_until=0,
        )
    )
    rows = [_key(read) | {"new_due_at": due_at[read], "new_error": failed[read]} for read in sorted(failed)]
    connection.execute(statement, rows)


def next_due(connection: Connection) -> int | None:
    """When (Redis' microseconds) the next read that no worker is at comes due."""
    later = sa.case((reads.c.due_at > reads.c.taken_until, reads.c.due_at), else_=reads.c.taken_until)
    due: int | None = connection.scalar(sa.select(sa.func.min(later)))
    return due


def waiting(connection: Connection, corp_id: str) -> int:
    """How many reads are noted for a corp that no event led to."""
    mine = (reads.c.corp_id == corp_id, reads.c.event_id.is_(None))
    return int(connection.scalar(sa.select(sa.func.count()).where(*mine)) or 0)


def noted(connection: Connection, corp_id: str) -> set[Entity]:
    """The entities of a corp that a read is noted for."""
    query = sa.select(reads.c.corp_id, reads.c.kind, reads.c.entity_id).where(reads.c.corp_id == corp_id)
    return {Entity(*row) for row in connection.execute(query)}


def _row(due: Due) -> dict[str, str | int | None]:
    return {
        "corp_id": due.entity.corp_id,
        "kind": due.entity.kind,
        "entity_id": due.entity.id,
        "due_at": due.due_at,
        "priority": int(due.priority),
        "cause": due.cause,
        "event_id": due.event_id,
    }


def _key(read: Taken) -> dict[str, str | int]:
    corp_id, kind, entity_id = read.entity
    return {"key_corp": corp_id, "key_kind": kind, "key_id": entity_id, "key_version": read.version}
