"""One transaction's guarded writes: rows are locked in key order and written only if they are as they were noted.

Rule 4: a read notes each row's version (0 where there is none) before it asks the API; whoever finds another
version when it writes has been overtaken and must read again.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.engine import Connection

from bridge.events import Entity
from workers.store import tables
from workers.store.statements import Key, Row, given_keys, insert_ignoring, key_columns, matching

ChangeKind = Literal["user", "department", "role", "role_group", "corp"]
Operation = Literal["create", "update", "delete", "restore"]

#: Columns that no `before` or `after` shows: they are ours.
GUARD_COLUMNS = frozenset({"version", "read_begun", "read_life", "read_event_id", "pushed_order"})
#: Columns whose difference alone is no change: they tell of the read, not of the entity.
SILENT_COLUMNS = frozenset({"fetched_at", "raw", "pushed_at"})


#: Seconds since 1970 beyond which there is no date: the year 9999.
_END_OF_TIME = 253_370_764_800


class Absence(Enum):
    """Why an answer holds no data. Four things that must not be mixed up (rule 5); an error is no answer at all."""

    GONE = "there is no such entity"
    DISSOLVED = "there is no such corp any more"
    HIDDEN = "the app may not see it"
    UNREAD = "no app has the credentials to read it"


class Change(NamedTuple):
    """What really changed; the columns of `changes` that are known before its seq."""

    corp_id: str
    entity: ChangeKind
    entity_id: str
    operation: Operation
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    event_id: str | None
    #: A first copy or a replay: no user's function is owed for it.
    quiet: bool


class Cause(NamedTuple):
    """Why an entity was read: the event that asked for it, and whether users' functions stay quiet."""

    event_id: str | None
    quiet: bool


class Pushed(NamedTuple):
    """What pushed rows have to do with answers, each row given by its place (see bridge.messages.Row)."""

    #: The row that an answer was taken from, as DingTalk could not be asked.
    taken: Mapping[Entity, str]
    #: The newest row that was seen of an entity.
    seen: Mapping[Entity, str]


def made_at(order: str | None) -> datetime | None:
    """When a pushed row of this place was made."""
    return None if order is None else datetime.fromtimestamp(min(int(order[:20]) / 1000, _END_OF_TIME), UTC)


NOTHING_PUSHED = Pushed({}, {})


class Mark(NamedTuple):
    """A read that an answer asks for: why, and on whose account."""

    reason: str
    cause: Cause
    #: Whether answers may go on for a while as if nothing had happened: only one given after that is believed.
    settling: bool


@dataclass
class Draft:
    """What a write transaction was told and what it finds."""

    tx: Connection
    #: The versions that were noted before the API was asked.
    versions: Mapping[Entity, int]
    #: Redis' microseconds when the read began, and that Redis' life.
    begun: int
    life: str
    causes: Mapping[Entity, Cause]
    pushed: Pushed = NOTHING_PUSHED
    changes: list[Change] = field(default_factory=list)
    #: Entities that disagree with what was written and must be read.
    marks: dict[Entity, Mark] = field(default_factory=dict)
    #: Entities that were overtaken: nothing was written, they must be read again.
    moved: set[Entity] = field(default_factory=set)

    @property
    def at(self) -> datetime:
        """When the read began, by Redis' clock."""
        return datetime.fromtimestamp(self.begun / 1e6, UTC)

    def guard(self, entity: Entity) -> dict[str, Any]:
        """The guard columns after this write; raised also when nothing changed.

        A pushed row is no read: it covers nobody who waits for one.
        """
        if entity in self.pushed.taken:
            return {"version": self.versions[entity] + 1}
        read = {"read_begun": self.begun, "read_life": self.life, "read_event_id": self.causes[entity].event_id}
        return {"version": self.versions[entity] + 1, **read}

    def outdated(self, entity: Entity, row: Row) -> bool:
        """Whether its answer comes of a pushed row that is older than one seen before."""
        taken = self.pushed.taken.get(entity)
        return taken is not None and taken < (row["pushed_order"] or "")

    def pushing(self, entity: Entity, row: Row, unread: bool) -> dict[str, Any]:
        """The columns that say whether the values are a pushed row's, and which row was the newest."""
        newest = max(row["pushed_order"] or "", self.pushed.seen.get(entity, ""))
        pushed_at = row["pushed_at"] if unread else made_at(self.pushed.taken.get(entity))
        return {"pushed_at": pushed_at, "pushed_order": newest or None}

    def mark(self, by: Entity, entities: Iterable[Entity], reason: str, *, settling: bool = False) -> None:
        """Ask for a read of these, for the same cause as that of `by`; of two causes one that is not quiet wins."""
        mark = Mark(reason, self.causes[by], settling)
        for entity in entities:
            known = self.marks.get(entity)
            if known is None or (known.cause.quiet and not mark.cause.quiet):
                self.marks[entity] = mark

    def log(
        self, entity: Entity, kind: ChangeKind, key: str, before: dict[str, Any] | None, after: dict[str, Any]
    ) -> Operation | None:
        """Note a change if there is one; `before` is None where there was no row."""
        operation = operation_of(before, after)
        if operation:
            self.changes.append(Change(entity.corp_id, kind, key, operation, before, after, *self.causes[entity]))
        return operation


def lock(draft: Draft, table: Table, keys: Mapping[Entity, Key]) -> dict[Entity, Row]:
    """The rows of these entities, locked, without those that were overtaken; these go to `draft.moved`.

    Where there was no row, one without data is made, so that an entity nobody ever saw is guarded too.
    """
    ordered = sorted(keys.items(), key=lambda item: item[1])
    names = key_columns(table)
    unseen = [dict(zip(names, key, strict=True)) for entity, key in ordered if draft.versions[entity] == 0]
    insert_ignoring(draft.tx, table, unseen)
    wanted = given_keys(table.primary_key.columns, (key for _, key in ordered))
    found = draft.tx.execute(_locking(draft.tx.dialect.name, table), wanted)
    columns = tuple(found.keys())
    each = (dict(zip(columns, values, strict=True)) for values in found)  # a third of the time of found.mappings()
    rows = {tuple(row[name] for name in names): row for row in each}
    held: dict[Entity, Row] = {}
    for entity, key in ordered:
        row = rows.get(key)
        if row is None or row["version"] != draft.versions[entity]:
            draft.moved.add(entity)
        else:
            held[entity] = row
    return held


@cache
def _locking(dialect: str, table: Table) -> sa.Select[Any]:
    """The given rows, locked in key order."""
    return sa.select(table).where(matching(dialect, table)).order_by(*table.primary_key.columns).with_for_update()


def data(row: Row) -> dict[str, Any]:
    """A row as `changes` shows it."""
    return {name: value for name, value in row.items() if name not in GUARD_COLUMNS}


def seen(row: Row) -> bool:
    """Whether the row ever held an entity: not one just made, nor the tombstone of one nobody ever saw."""
    # A hidden one was seen, though never read, and so was one that a row told of.
    unread = row["fetched_at"] is None and row["visible"] and row["pushed_at"] is None
    return row["version"] > 0 and not (unread and row["deleted_at"] is not None)


def operation_of(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> Operation | None:
    """What happened between two rows; None where nothing did."""
    gone = after["deleted_at"] is not None
    if before is None:
        return None if gone else "create"
    if (before["deleted_at"] is not None) != gone:
        return "delete" if gone else "restore"
    differs = any(before[name] != after[name] for name in after if name not in SILENT_COLUMNS)
    return "update" if differs else None


def ensure_corps(connection: Connection, corp_ids: Collection[str]) -> None:
    """A row in `corps` and a fence for each of these."""
    rows = [{"corp_id": corp_id} for corp_id in sorted(corp_ids)]
    for table in (tables.corps, tables.fences):
        insert_ignoring(connection, table, rows)
