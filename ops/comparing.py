"""`dingbridge drift` and `dingbridge heal`: what they do, and what they show."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from bridge.errors import BridgeError
from ops.compose import Parts
from workers import jobs
from workers.comparison import Comparison, Report
from workers.dingtalk import DingTalk
from workers.drift import Drift, Finding
from workers.store.holdings import REMOVABLE
from workers.store.tables import changes
from workers.workoff import WorkOff

#: Told after each step: how much is done, and of how much.
Tell = Callable[[int, int], object]

#: Characters of a value that a table shows, and of the table where no terminal gives its width.
VALUE_WIDTH, TABLE_WIDTH = 40, 160


class Looked(NamedTuple):
    """What `drift` found: differences, why `heal` would remove nothing, and what could not be looked at."""

    findings: list[Finding]
    objections: list[str]
    faults: list[str]

    def as_dict(self) -> dict[str, Any]:
        differences = [finding._asdict() for finding in self.findings]
        return {"differences": differences, "objections": self.objections, "faults": self.faults}


class Healed(NamedTuple):
    """What `heal` did to a corp: the comparison, what changed with it, and what could not be listed or read."""

    report: Report
    mended: dict[str, int]
    faults: list[str]

    def as_dict(self) -> dict[str, Any]:
        return {"corp_id": self.report.corp_id, **self.report.as_dict(), "mended": self.mended, "faults": self.faults}


def look(parts: Parts, corp_id: str, whole: bool, tell: Tell) -> Looked:
    """Compare one corp without writing. Raises BridgeError where it cannot be read, RedisError."""
    reader, limits = _client(parts, corp_id), parts.config.heal
    drift = Drift(parts.connection, parts.refresher, reader, corp_id, limits, whole=whole)
    for step in drift.run():
        tell(step.done, step.found)
    return Looked(drift.findings, drift.objections, drift.faults)


def heal(parts: Parts, comparison: Comparison, tell: Tell) -> Healed:
    """Compare one corp, and read what differs beside the workers. Raises ApiError, RedisError."""
    corp_id = comparison.report.corp_id
    with parts.store.reading() as connection:
        before = connection.scalar(sa.select(sa.func.max(changes.c.seq))) or 0
    for step in comparison.run():
        tell(step.done, step.found)
    report = comparison.report
    backlog = WorkOff(parts.store, parts.clock, parts.folder, corp_id)
    backlog.begin()
    more = True
    while more:
        more = backlog.step()
        tell(max(0, report.marked - backlog.left), report.marked)
    jobs.Dispatcher(parts.store, parts.connection).dispatch(backlog.lanes)
    query = sa.select(changes.c.entity, changes.c.operation).where(
        changes.c.seq > before, changes.c.corp_id == corp_id, changes.c.event_id.is_(None)
    )
    with parts.store.reading() as connection:
        mended = Counter(f"{entity} {operation}" for entity, operation in connection.execute(query))
    return Healed(report, dict(sorted(mended.items())), [*report.faults, *backlog.faults])


def comparison(parts: Parts, corp_id: str, whole: bool, allow_removals: bool, allow_scope: bool) -> Comparison:
    """The comparison that `heal` begins with. Raises BridgeError where no app can read the corp."""
    reader, limits = _client(parts, corp_id), parts.config.heal
    return Comparison(
        parts.store, parts.clock, reader, corp_id, limits,
        whole=whole, allow_removals=allow_removals, allow_scope=allow_scope,
    )  # fmt: skip


def print_findings(looked: Looked) -> None:
    """A table for people, and a line that sums it up. It shows people's data: it is for whoever asked."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    findings = looked.findings
    if not findings:
        console.print("not all could be compared" if looked.faults else "no difference")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("entity", "id", "field", "here", "at DingTalk", "since", "likely cause"):
        table.add_column(column, overflow="fold")
    for one in findings:
        since = one.since.strftime("%Y-%m-%d %H:%M:%SZ") if one.since else "never read"
        row = (one.entity, one.id, one.field, _shown(one.here), _shown(one.dingtalk), since, one.cause)
        table.add_row(*row)
    console.print(table, markup=False)
    causes = Counter(one.cause for one in findings)
    told = ", ".join(f"{count} {cause}" for cause, count in causes.most_common())
    console.print(f"{len(findings)} {'difference' if len(findings) == 1 else 'differences'}: {told}")


def healed_line(healed: Healed) -> str:
    """What was done to one corp, in a line."""
    report = healed.report
    mended = ", ".join(f"{what} ×{count}" for what, count in healed.mended.items()) or "nothing had to be changed"
    line = f"{report.corp_id}: {report.differing} differing, {report.marked} read: {mended}"
    if report.stopped:
        kept = ", ".join(f"{count} {REMOVABLE[table]}" for table, count in report.removals.items())
        line += f"; removed nothing, and would have removed or hidden {kept}"
    return line


def _client(parts: Parts, corp_id: str) -> DingTalk:
    found = parts.readers.client(corp_id)
    if found is None:
        raise BridgeError(f"no app has the credentials to read {corp_id}: set app_key and app_secret")
    return found


def _shown(value: Any) -> str:
    """A value in few characters."""
    if isinstance(value, list):
        text = ", ".join(_shown(item) for item in value)
    elif isinstance(value, dict):  # a membership
        leads = " leader" if value.get("leader") else ""
        text = f"{value.get('dept_id')}{leads} order {value.get('sort_order')}"
    elif isinstance(value, datetime):
        text = value.strftime("%Y-%m-%d %H:%M:%SZ")
    else:
        text = "–" if value is None else str(value)
    return text if len(text) <= VALUE_WIDTH else text[: VALUE_WIDTH - 1] + "…"
