"""A comparison that mends: lists first, then the fence is raised, then it compares and marks (rule 4).

The fence comes first and by itself: whatever is written from then on was read after the lists. So comparing needs no
lock, which workers would wait for, five seconds for 50 000 users.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import sqlalchemy as sa

from bridge.config import HealConfig
from bridge.events import Entity
from workers import reconcile
from workers.dingtalk import DingTalk
from workers.errors import ApiError, Gone, Hidden
from workers.moment import RedisClock
from workers.reconcile import Plan
from workers.shapes import Scope
from workers.snapshot import Lists, Steps, Survey
from workers.store import comparisons, holdings, reads, tables
from workers.store.comparisons import Outcome
from workers.store.engine import Store
from workers.store.reads import Due, Priority

#: Of users and of departments, those unread the longest are read singly: one part in so many in each night, so that
#: each is read whole within a week.
PARTS = 7
#: No fewer than so many, so that a small organisation is read whole every time: about a minute at 15 calls a second.
LEAST_PART = 1000


def part_of(count: int) -> int:
    """How many of so many are read singly in one run."""
    return max(LEAST_PART, -(-count // PARTS))


@dataclass
class Report:
    """What one comparison found and did: counts and reasons, nobody's data."""

    corp_id: str
    #: Entities in which the lists differ from the datastore, and reads that are new.
    differing: int = 0
    marked: int = 0
    #: Rows that would go if DingTalk stands by its lists, by table.
    removals: dict[str, int] = field(default_factory=dict)
    #: Why nothing of that was marked; empty where it was.
    stopped: list[str] = field(default_factory=list)
    #: What could not be listed, each with the reason.
    faults: list[str] = field(default_factory=list)
    #: Whether users' functions stay quiet, as for a first copy.
    quiet: bool = False

    @property
    def outcome(self) -> Outcome:
        return "stopped" if self.stopped else "partial" if self.faults else "done"

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "corp_id"}


class Comparison:
    """One run over one corp."""

    def __init__(
        self,
        store: Store,
        clock: RedisClock,
        client: DingTalk,
        corp_id: str,
        limits: HealConfig,
        *,
        whole: bool = False,
        allow_removals: bool = False,
        allow_scope: bool = False,
    ) -> None:
        """`whole` has every user and department read singly; the other two are the one-time overrides."""
        self._store = store
        self._clock = clock
        self._client = client
        self._limits = limits
        self._whole = whole
        self._allow_removals = allow_removals
        self._allow_scope = allow_scope
        self.report = Report(corp_id)

    def run(self) -> Iterator[Steps]:
        """Compare and mark, telling the progress; `report` is complete when this ends. Raises ApiError."""
        begun = self._clock.now().micros
        corp_id, report = self.report.corp_id, self.report
        survey = Survey(self._client)
        yield from survey.run()
        lists = survey.lists
        with self._store.writing() as connection:
            known = comparisons.state(connection, corp_id, begun)
        lost = scope_lost(self._client, known.scope, lists)
        with self._store.writing() as connection:
            comparisons.raise_fence(connection, corp_id)
        yield survey.steps
        with self._store.reading() as connection:
            plan = reconcile.compare(holdings.load(connection, corp_id), lists)
            part = set() if lists.dissolved else self._part(connection, plan)
        yield survey.steps
        wanted = {difference.entity for difference in plan.differences} | plan.untold | part
        report.stopped = reconcile.objections(plan, self._limits, lost, self._allow_removals, self._allow_scope)
        if report.stopped:
            wanted -= plan.removing()
        report.differing = len({difference.entity for difference in plan.differences})
        report.removals = {table: count for table, count in (plan.removals + plan.outside).items() if count}
        report.faults = lists.faults
        report.quiet = known.copied_at is None
        self._mark(wanted, lists, lost, begun)

    def _mark(self, wanted: set[Entity], lists: Lists, lost: list[str], begun: int) -> None:
        corp_id, report = self.report.corp_id, self.report
        now = self._clock.now().micros
        priority = Priority.COPY if report.quiet else Priority.HEAL
        with self._store.writing() as connection:
            report.marked = reads.add(connection, [Due(entity, now, "heal", None, priority) for entity in wanted])
            # What was lost against nobody's will stays the measure until somebody allows it.
            scope = None if lists.dissolved or (lost and not self._allow_scope) else lists.scope
            comparisons.remember(
                connection,
                corp_id,
                begun,
                now,
                report.outcome,
                scope,
                report.as_dict(),
                whole=self._whole,
                allow_scope=self._allow_scope,
            )

    def _part(self, connection: sa.Connection, plan: Plan) -> set[Entity]:
        """The users and departments that were not read for the longest time."""
        found: set[Entity] = set()
        for table in (tables.users, tables.departments):
            limit = None if self._whole else part_of(plan.living[table.name])
            found |= set(holdings.longest_unread(connection, self.report.corp_id, table, limit))
        return found


def scope_lost(client: DingTalk, known: Scope | None, lists: Lists) -> list[str]:
    """What the scope named at the last comparison and DingTalk hides now; for people, and without their ids."""
    departments, users = reconcile.lost_scope(known, lists)
    lost = [f"department {dept_id}" for dept_id in departments if _hidden(client, dept_id)]
    count = sum(_hidden(client, userid) for userid in users)
    return lost + ([f"{count} users"] if count else [])


def _hidden(client: DingTalk, key: int | str) -> bool:
    """Not what is merely gone. What does not answer counts as hidden: in doubt somebody is asked."""
    try:
        if isinstance(key, int):
            client.department(key, live=False)
        else:
            client.user(key, live=False)
    except Hidden:
        return True
    except ApiError as error:
        return not isinstance(error, Gone)
    return False
