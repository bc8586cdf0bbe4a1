"""A comparison that only tells: what differs by the lists is read singly, and its writing is rehearsed."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any, Literal, NamedTuple

import redis

from bridge.config import HealConfig
from bridge.events import ROOT_DEPARTMENT, Entity
from workers import reconcile
from workers.comparison import part_of, scope_lost
from workers.dingtalk import DingTalk
from workers.pending import pending
from workers.reconcile import ABSENT, PRESENT, ROW, Plan
from workers.refresh import Refresher
from workers.snapshot import Steps, Survey
from workers.store import comparisons, holdings, reads, tables
from workers.store.draft import SILENT_COLUMNS, Change

#: Entities that are read and rehearsed together.
BATCH = 64
#: Times that an entity is read again which somebody else wrote meanwhile.
ROUNDS = 5

#: Why something differs: its event or a read of it still waits; it lies outside of what the app may see; DingTalk hides
#: it from the app; else no event told of it, or the one that did was lost.
Cause = Literal["still queued", "scope", "hidden", "lost event"]


class Finding(NamedTuple):
    """One difference: what the datastore says, what DingTalk says, and since when it may be so."""

    corp_id: str
    entity: str
    id: str
    field: str
    here: Any
    dingtalk: Any
    #: When the datastore last read it; None where it never did.
    since: datetime | None
    cause: Cause


class Drift:
    """One look at one corp; nothing is written."""

    def __init__(
        self,
        connection: redis.Redis,
        refresher: Refresher,
        client: DingTalk,
        corp_id: str,
        limits: HealConfig,
        *,
        whole: bool = False,
    ) -> None:
        """`whole` reads every user and department singly."""
        self._connection = connection
        self._refresher = refresher
        self._client = client
        self._corp_id = corp_id
        self._limits = limits
        self._whole = whole
        self._plan = Plan()
        self._queued: set[Entity] = set()
        self.findings: list[Finding] = []
        #: What could not be listed or read, each with the reason; nobody is named.
        self.faults: list[str] = []
        #: Why `heal` would remove nothing; empty where it would.
        self.objections: list[str] = []

    def run(self) -> Iterator[Steps]:
        """Look, telling the progress; the findings are complete when this ends. Raises ApiError, RedisError."""
        survey = Survey(self._client)
        yield from survey.run()
        lists, store = survey.lists, self._refresher.store
        with store.reading() as connection:
            self._plan = reconcile.compare(holdings.load(connection, self._corp_id), lists)
            known = next((one for one in comparisons.states(connection) if one.corp_id == self._corp_id), None)
            part = [] if lists.dissolved else self._part(connection)
        lost = [] if known is None else scope_lost(self._client, known.scope, lists)
        self.objections = reconcile.objections(self._plan, self._limits, lost, removals=False, scope=False)
        self.faults += lists.faults
        self._queued = self._waiting()
        if lists.dissolved:
            self._tell_by_lists(self._plan.differences)
            return
        wanted = list(dict.fromkeys([*(one.entity for one in self._plan.differences), *self._plan.untold, *part]))
        for start in range(0, len(wanted), BATCH):
            self._read(wanted[start : start + BATCH])
            yield Steps(min(start + BATCH, len(wanted)), len(wanted))

    def _part(self, connection: Any) -> list[Entity]:
        found: list[Entity] = []
        for table in (tables.users, tables.departments):
            limit = None if self._whole else part_of(self._plan.living[table.name])
            found += holdings.longest_unread(connection, self._corp_id, table, limit)
        return found

    def _waiting(self) -> set[Entity]:
        found = pending(self._connection, self._corp_id)
        with self._refresher.store.reading() as connection:
            return found | reads.noted(connection, self._corp_id)

    def _read(self, wanted: Iterable[Entity]) -> None:
        """Read these, and tell what writing them would change."""
        left = set(wanted)
        for _ in range(ROUNDS):
            noted = self._refresher.note(left)
            answers, errors = self._refresher.read(dict.fromkeys(left, False))
            for entity, error in errors.items():
                self.faults.append(f"{entity.kind} cannot be read: {error}")
            self._tell_by_lists([one for one in self._plan.differences if one.entity in errors])
            written, changes = self._refresher.rehearse(noted, answers)
            for change in changes:
                self.findings += self._findings(change)
            left -= written | errors.keys()
            if not left:
                return
        self.faults.append(f"{len(left)} entities were written all the time meanwhile: look again")

    def _findings(self, change: Change) -> Iterator[Finding]:
        before, after = change.before or {}, change.after or {}
        if change.operation == "update":
            fields = [name for name in after if name not in SILENT_COLUMNS and before.get(name) != after[name]]
            values = [(name, *_differing(before.get(name), after[name])) for name in fields]
        else:
            values = [(ROW, PRESENT, ABSENT) if change.operation == "delete" else (ROW, ABSENT, PRESENT)]
        entity = _entity(change)
        seen = after.get("visible", True) and before.get("visible", True)
        cause = self._cause(entity, hidden=not seen)
        for name, here, there in values:
            yield Finding(
                self._corp_id, change.entity, change.entity_id, name, here, there, before.get("fetched_at"), cause
            )

    def _tell_by_lists(self, differences: Iterable[reconcile.Difference]) -> None:
        """What only the lists could tell."""
        self.findings += [
            Finding(
                self._corp_id, one.entity.kind, one.entity.id, one.field, one.here, one.there, None,
                self._cause(one.entity, hidden=False),
            )
            for one in differences
        ]  # fmt: skip

    def _cause(self, entity: Entity, hidden: bool) -> Cause:
        if entity in self._queued:
            return "still queued"
        if entity in self._plan.outsiders:
            return "scope"
        return "hidden" if hidden else "lost event"


def _entity(change: Change) -> Entity:
    """What has to be read for it."""
    if change.entity == "corp":
        return Entity(change.corp_id, "department", str(ROOT_DEPARTMENT))
    if change.entity in ("role", "role_group"):
        return Entity(change.corp_id, "roles", "")
    return Entity(change.corp_id, "user" if change.entity == "user" else "department", change.entity_id)


def _differing(here: Any, there: Any) -> tuple[Any, Any]:
    """Of memberships those that differ."""
    if not (isinstance(here, list) and isinstance(there, list)):
        return here, there
    return [item for item in here if item not in there], [item for item in there if item not in here]
