"""The one way into the datastore: note what it holds, read DingTalk's present state, write what still holds.

The three steps can be run apart; between them anybody may write, and the guards of rule 4 decide.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import Table
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from bridge.events import ROOT_DEPARTMENT, Entity, EntityKind
from workers.errors import ApiError
from workers.moment import SECOND, Moment, RedisClock
from workers.readers import Answer, Readers
from workers.shapes import Department
from workers.store import tables
from workers.store.corps import dissolved
from workers.store.departments import write_departments
from workers.store.draft import NOTHING_PUSHED, Absence, Cause, Change, Draft, Pushed, ensure_corps
from workers.store.engine import Store
from workers.store.roles import write_role_lists
from workers.store.statements import Key, given_keys, matching
from workers.store.tables import fences
from workers.store.users import write_users

T = TypeVar("T")

#: Times that a transaction is tried again after it lost a race for locks, which is no attempt.
MAX_LOST_RACES = 10
#: PostgreSQL's words for that: deadlock_detected, serialization_failure.
LOST_RACES = ("40P01", "40001")

_FENCES = sa.select(fences).where(fences.c.corp_id.in_(sa.bindparam("corp_ids", expanding=True)))
_HOLD_FENCES = _FENCES.order_by(fences.c.corp_id).with_for_update(read=True)

#: The table of each kind of entity that carries its guard, and the key of its row there.
GUARDED: Mapping[str, tuple[Table, Callable[[Entity], Key]]] = {
    "user": (tables.users, lambda entity: (entity.corp_id, entity.id)),
    "department": (tables.departments, lambda entity: (entity.corp_id, int(entity.id))),
    "roles": (tables.role_lists, lambda entity: (entity.corp_id,)),
}


class Noted(NamedTuple):
    """What the datastore held, moments of the last committed reads included, and Redis' moment after that."""

    versions: Mapping[Entity, int]
    committed: Mapping[Entity, Moment]
    #: The event that each of these reads was made for; None where no event asked for it.
    made_for: Mapping[Entity, str | None]
    fences: Mapping[str, int]
    moment: Moment
    #: time.monotonic() at that moment.
    ticks: float

    def micros_now(self) -> int:
        """The present by Redis' clock, counted on from the noted moment; for people, no decision rests on it."""
        return self.moment.micros + round((time.monotonic() - self.ticks) * SECOND)


class Refresher:
    """The three steps, over any number of entities at a time."""

    def __init__(self, store: Store, clock: RedisClock, readers: Readers) -> None:
        self.store = store
        self.readers = readers
        self._clock = clock

    def note(self, entities: Iterable[Entity]) -> Noted:
        """First step: versions and fences as they are, and only then Redis' time."""
        wanted = set(entities)
        versions = dict.fromkeys(wanted, 0)
        committed: dict[Entity, Moment] = {}
        made_for: dict[Entity, str | None] = {}
        corps = {entity.corp_id for entity in wanted}
        held = dict.fromkeys(corps, 0)
        with self.store.reading() as connection:
            for kind, (table, key_of) in GUARDED.items():
                keys = {key_of(entity): entity for entity in wanted if entity.kind == kind}
                for entity, version, begun, life, event_id in _guards(connection, table, keys):
                    versions[entity] = version
                    if begun is not None:
                        committed[entity], made_for[entity] = Moment(begun, life), event_id
            if corps:
                held |= {row.corp_id: row.n for row in connection.execute(_FENCES, {"corp_ids": list(corps)})}
        return Noted(versions, committed, made_for, held, self._clock.now(), time.monotonic())

    def read(self, wanted: Mapping[Entity, bool]) -> tuple[dict[Entity, Answer], dict[Entity, ApiError]]:
        """Second step: ask DingTalk. The value of each tells whether somebody waits for it."""
        return self.readers.read(wanted)

    def write(
        self,
        noted: Noted,
        answers: Mapping[Entity, Answer],
        causes: Mapping[Entity, Cause],
        conclude: Callable[[Draft, set[Entity]], T],
        pushed: Pushed = NOTHING_PUSHED,
    ) -> tuple[set[Entity], T]:
        """Third step, in one transaction: the answers that were not overtaken, then whatever `conclude` adds to them.

        Returns the entities that were written, and what `conclude` said of them.
        """
        return self._race(self.store.writing, noted, answers, causes, conclude, pushed)

    def rehearse(self, noted: Noted, answers: Mapping[Entity, Answer]) -> tuple[set[Entity], list[Change]]:
        """Third step without its effect: the entities that would be written, and what that would change."""
        causes = dict.fromkeys(answers, Cause(None, True))

        def conclude(draft: Draft, _written: set[Entity]) -> list[Change]:
            return draft.changes

        return self._race(self.store.rehearsing, noted, answers, causes, conclude, NOTHING_PUSHED)

    def _race(
        self,
        transaction: Callable[[], AbstractContextManager[Connection]],
        noted: Noted,
        answers: Mapping[Entity, Answer],
        causes: Mapping[Entity, Cause],
        conclude: Callable[[Draft, set[Entity]], T],
        pushed: Pushed,
    ) -> tuple[set[Entity], T]:
        """The write, tried again when it loses a race."""
        for _ in range(MAX_LOST_RACES):
            try:
                with transaction() as tx:
                    return self._write(tx, noted, answers, causes, conclude, pushed)
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) not in LOST_RACES:
                    raise
        with transaction() as tx:
            return self._write(tx, noted, answers, causes, conclude, pushed)

    def _write(
        self,
        tx: Connection,
        noted: Noted,
        answers: Mapping[Entity, Answer],
        causes: Mapping[Entity, Cause],
        conclude: Callable[[Draft, set[Entity]], T],
        pushed: Pushed,
    ) -> tuple[set[Entity], T]:
        held = _hold_fences(tx, answers)
        standing = {e: answer for e, answer in answers.items() if held[e.corp_id] == noted.fences[e.corp_id]}
        draft = Draft(tx, noted.versions, noted.moment.micros, noted.moment.life, causes, pushed)
        standing = _bury(draft, standing)
        write_departments(draft, _of_kind(standing, "department"))
        standing = _outlive(draft, standing)
        write_role_lists(draft, _of_kind(standing, "roles"))
        write_users(draft, _of_kind(standing, "user"))
        written = standing.keys() - draft.moved
        return written, conclude(draft, written)


def _bury(draft: Draft, answers: Mapping[Entity, Answer]) -> dict[Entity, Answer]:
    """Nothing comes to life in a dissolved corp, but by its root, which is asked where something else answers."""
    buried = dissolved(draft.tx, {entity.corp_id for entity in answers})
    roots = {corp_id: Entity(corp_id, "department", str(ROOT_DEPARTMENT)) for corp_id in buried}
    buried = {corp_id for corp_id in buried if not isinstance(answers.get(roots[corp_id]), Department)}
    for entity, answer in answers.items():
        if entity.corp_id in buried and not isinstance(answer, Absence):
            draft.mark(entity, [roots[entity.corp_id]], "it answers though its corp is dissolved", settling=True)
    return {entity: Absence.DISSOLVED if entity.corp_id in buried else answer for entity, answer in answers.items()}


def _outlive(draft: Draft, answers: Mapping[Entity, Answer]) -> dict[Entity, Answer]:
    """Without what answers as if a corp stood that was buried just now: it has to be read again."""
    buried = dissolved(draft.tx, {entity.corp_id for entity, answer in answers.items() if answer is Absence.DISSOLVED})
    alive = {
        entity
        for entity, answer in answers.items()
        if entity.corp_id in buried and entity.kind != "department" and not isinstance(answer, Absence)
    }
    draft.moved |= alive
    return {entity: answer for entity, answer in answers.items() if entity not in alive}


def _of_kind(answers: Mapping[Entity, Answer], kind: EntityKind) -> dict[Entity, Any]:
    return {entity: answer for entity, answer in answers.items() if entity.kind == kind}


def _guards(
    connection: Connection, table: Table, keys: Mapping[Key, Entity]
) -> Iterator[tuple[Entity, int, int | None, str, str | None]]:
    """Version, read_begun, read_life and read_event_id of these entities' rows."""
    if not keys:
        return
    for *key, version, begun, life, event_id in connection.execute(
        _guards_of(connection.dialect.name, table), given_keys(table.primary_key.columns, keys)
    ):
        yield keys[tuple(key)], version, begun, life, event_id


@cache
def _guards_of(dialect: str, table: Table) -> sa.Select[Any]:
    guard = (table.c.version, table.c.read_begun, table.c.read_life, table.c.read_event_id)
    return sa.select(*table.primary_key.columns, *guard).where(matching(dialect, table))


def _hold_fences(tx: Connection, answers: Mapping[Entity, Answer]) -> dict[str, int]:
    """Each corp's fence as it was noted by whoever may go on, held until the end of the transaction.

    In share mode; a corp that is dissolved is fenced for good: reads that began before are not written any more.
    Whoever makes a fence makes the corp's row, too.
    """
    corps = sorted({entity.corp_id for entity in answers})
    if not corps:
        return {}
    buried = sorted(
        entity.corp_id
        for entity, answer in answers.items()
        if answer is Absence.DISSOLVED and entity.id == str(ROOT_DEPARTMENT) and entity.kind == "department"
    )
    if buried:
        ensure_corps(tx, buried)
        tx.execute(sa.update(fences).where(fences.c.corp_id.in_(buried)).values(n=fences.c.n + 1))
    held = _held(tx, corps)
    if missing := set(corps) - held.keys():
        ensure_corps(tx, missing)
        held |= _held(tx, sorted(missing))
    return {corp_id: n - (corp_id in buried) for corp_id, n in held.items()}


def _held(tx: Connection, corp_ids: Sequence[str]) -> dict[str, int]:
    found = tx.execute(_HOLD_FENCES, {"corp_ids": corp_ids})
    return {row.corp_id: row.n for row in found}
