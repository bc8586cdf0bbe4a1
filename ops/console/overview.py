"""The front page, whose parts refresh themselves, and the page of one event."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flask import Blueprint, Response, abort, render_template, request
from rq.utils import as_text

from bridge.events import job_id, queue_names
from ops.console import applied, words
from ops.console.backlog import Backlog
from ops.console.sources import Fault, Sources
from workers.budget import Paused
from workers.store.suites import OLD_TICKET

#: Seconds that the first event of a queue may wait before the page points at it.
LATE_SECONDS = 60


class Part(NamedTuple):
    """A part of the front page: seconds between two refreshes, and what its template shows."""

    every: int
    context: Callable[[Sources, str | None], Mapping[str, Any]]


def create_overview(sources: Sources) -> Blueprint:
    """`/`, `/parts/<name>` and `/events/<id>`."""
    blueprint = Blueprint("overview", __name__)
    for function in (words.span, words.ago, words.clock, words.short, words.count):
        blueprint.add_app_template_filter(function)

    @blueprint.get("/")
    def front() -> str:
        status = _status()
        shown = {name: {"every": part.every, **part.context(sources, status)} for name, part in PARTS.items()}
        return render_template("front.html", parts=shown, status=status)

    @blueprint.get("/parts/<name>")
    def part(name: str) -> str:
        if name not in PARTS:
            abort(404)
        status = _status()
        return render_template(f"parts/{name}.html", part=PARTS[name].context(sources, status), status=status)

    @blueprint.get("/events/<path:event_id>")
    def event(event_id: str) -> Response:
        at = request.args.get("at", type=int)
        row = sources.ask(lambda connection: applied.find_event(connection, event_id, at))
        if isinstance(row, Fault):
            return Response(render_template("event.html", fault=row), 503)
        if row is None:
            job = _job(sources, event_id)
            return Response(render_template("event.html", job=job, shown_id=job_id(event_id)), 200 if job else 404)
        changes = sources.ask(lambda connection: applied.changes_of(connection, row.id))
        return Response(render_template("event.html", event=row, changes=changes, shown_id=row.shown_id))

    return blueprint


def _status() -> str | None:
    """The status that the list of events is narrowed to."""
    status = request.args.get("status")
    if status not in (None, "", *applied.STATUSES):
        abort(404)
    return status or None


def _job(sources: Sources, event_id: str) -> Mapping[str, str] | None:
    """Where an event waits that has no row yet. Raises RedisError."""
    names = ("origin", "status", "description")
    values = sources.connection.hmget(f"rq:job:{job_id(event_id)}", *names)
    return {name: as_text(value or b"") for name, value in zip(names, values, strict=True)} if values[0] else None


def _glance(sources: Sources, _status: str | None) -> Mapping[str, Any]:
    backlog = sources.backlog()
    lag, reads = sources.ask(applied.lag), sources.ask(applied.reads_noted)
    compared = sources.ask(applied.compared)
    faults = [answer.reason for answer in (backlog, reads) if isinstance(answer, Fault)]
    return {
        "backlog": None if isinstance(backlog, Fault) else backlog,
        "lag": None if isinstance(lag, Fault) else lag,
        "reads": None if isinstance(reads, Fault) else reads,
        "banners": [
            *faults,
            *_alarms(sources.paused()),
            *_tickets(sources.tickets()),
            *_warnings(backlog),
            *([] if isinstance(compared, Fault) else _stopped(compared)),
        ],
        "late": LATE_SECONDS,
    }


def _alarms(paused: Paused | Fault) -> Iterator[str]:
    """What keeps DingTalk from being asked, but for throttles that pass within a minute."""
    if isinstance(paused, Fault):
        return
    if paused.all_seconds:
        yield f"DingTalk blocks this address: no call is made for {words.span(paused.all_seconds)}; events wait."
    for pause in paused.calls:
        if pause.quota_spent:
            yield (
                f"The monthly API quota of {pause.app}'s organisation is spent ({pause.code}): {pause.call} is not"
                " called. Buy more at DingTalk, or wait for the next month; it goes on by itself."
            )


def _tickets(ages: Mapping[str, float | None] | Fault) -> Iterator[str]:
    """Suites that can read nothing, now or soon."""
    if isinstance(ages, Fault):
        return
    for app, seconds in ages.items():
        if seconds is None or seconds > OLD_TICKET:
            state = "has not come yet" if seconds is None else f"is {words.span(seconds)} old"
            yield f"The suite_ticket of {app} {state}: push it again in the developer console, and see that it arrives."


def _warnings(backlog: Backlog | Fault) -> list[str]:
    """What an operator has to do something about."""
    if isinstance(backlog, Fault):
        return []
    waiting = backlog.total.waiting
    if waiting and not backlog.alive:
        return [
            f"{words.count(waiting)} jobs wait and no worker is alive: start `dingbridge work` or `dingbridge run`."
        ]
    served = {name for worker in backlog.workers if worker.alive for name in worker.queues}
    unserved = {queue.name for queue in backlog.queues if queue.waiting} - served
    found = [(unserved & set(queue_names()), "work"), (unserved - set(queue_names()), "jobs")]
    return [
        f"No worker serves {', '.join(sorted(names))}, where jobs wait: start `dingbridge {verb}`."
        for names, verb in found
        if names
    ]


def _stopped(compared: Sequence[applied.ComparisonRow]) -> list[str]:
    """Comparisons that wait for somebody."""
    found = [
        f"The comparison of {words.short(row.corp_id)} with DingTalk removes nothing: {reason};"
        " `dingbridge drift` shows what differs."
        for row in compared
        for reason in row.stopped
    ]
    failed = [row for row in compared if row.outcome == "failed"]
    return found + [
        f"{words.short(row.corp_id)} cannot be compared with DingTalk: {'; '.join(row.faults)}" for row in failed
    ]


def _queues(sources: Sources, _status: str | None) -> Mapping[str, Any]:
    backlog = sources.backlog()
    return {"backlog": backlog, "late": LATE_SECONDS} if not isinstance(backlog, Fault) else {"fault": backlog}


def _events(sources: Sources, status: str | None) -> Mapping[str, Any]:
    rows = sources.ask(lambda connection: applied.latest(connection, status))
    return {"rows": rows} if not isinstance(rows, Fault) else {"fault": rows}


def _totals(sources: Sources, _status: str | None) -> Mapping[str, Any]:
    counts, corps = sources.ask(applied.counts), sources.ask(applied.totals)
    if isinstance(counts, Fault):
        return {"fault": counts}
    if isinstance(corps, Fault):
        return {"fault": corps}
    return {"counts": counts, "corps": corps[: applied.SHOWN_CORPS], "more": corps[applied.SHOWN_CORPS :]}


#: The parts in their order on the page. Totals count many rows, so they are asked for less often.
PARTS: Mapping[str, Part] = {
    "glance": Part(2, _glance),
    "queues": Part(2, _queues),
    "events": Part(2, _events),
    "totals": Part(10, _totals),
}
