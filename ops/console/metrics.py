"""What Prometheus sees of the whole installation. Labels hold queues, types and states, never ids."""

import time
from collections.abc import Iterator
from typing import get_args

import redis
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ops.console import applied
from ops.console.backlog import Backlog
from ops.console.sources import Fault, Sources
from workers import budget
from workers.clock import LEADER_KEY
from workers.store import failed_lists
from workers.store.comparisons import Outcome
from workers.store.suites import OLD_TICKET


def render(sources: Sources) -> bytes:
    """Prometheus' text format; what is away is told by `dingbridge_up` and left out."""
    registry = CollectorRegistry()
    registry.register(Installation(sources))
    return generate_latest(registry)


class Installation(Collector):
    """Asks Redis and the datastore anew for every scrape."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        backlog, reads = self._sources.backlog(), self._sources.ask(applied.reads_noted)
        up = _gauge("up", "Whether this part answers.", "component")
        up.add_metric(["redis"], float(not isinstance(backlog, Fault)))
        up.add_metric(["datastore"], float(not isinstance(reads, Fault)))
        yield up
        if not isinstance(backlog, Fault):
            yield from _queues(backlog)
            yield from _workers(backlog)
            yield from _upkeep(self._sources.connection)
        if not isinstance(reads, Fault):
            yield _reads(reads)
            yield from self._events()
            yield from self._failed_lists()
            yield from self._comparisons()
            yield from self._tickets()

    def _events(self) -> Iterator[Metric]:
        counts, lag = self._sources.ask(applied.counts), self._sources.ask(applied.lag)
        if not isinstance(counts, Fault):
            gauge = _gauge("recent_events", "Events accepted in the last hour, by their final status.", "status")
            for status, (hour, _) in counts.items():
                gauge.add_metric([status], hour)
            yield gauge
        if lag is not None and not isinstance(lag, Fault):
            text = "Seconds from acceptance to commit, of the last hour's latest events; absent where there were none."
            gauge = _gauge("lag_seconds", text, "quantile")
            for quantile, seconds in zip(("0.5", "0.95", "1"), lag, strict=True):
                gauge.add_metric([quantile], seconds)
            yield gauge

    def _failed_lists(self) -> Iterator[Metric]:
        asked, counts = self._sources.ask(failed_lists.last_asked), self._sources.ask(failed_lists.counts)
        if not isinstance(asked, Fault):
            age = _gauge(
                "failed_list_asked_seconds", "How long ago the app's list of failed callbacks was asked for.", "app"
            )
            for app, at in asked.items():
                age.add_metric([app], max(0.0, time.time() - at.timestamp()))
            yield age
        if not isinstance(counts, Fault):
            text = "Calls for failed lists: those not finished, and those that tell of something lost or unreadable."
            calls = _gauge("failed_list_calls", text, "state")
            for state, number in zip(("unfinished", "faulty"), counts, strict=True):
                calls.add_metric([state], number)
            yield calls

    def _comparisons(self) -> Iterator[Metric]:
        rows = self._sources.ask(applied.compared)
        if isinstance(rows, Fault):
            return
        text = "Corps by how their last comparison with DingTalk ended: stopped and failed ones wait for somebody."
        gauge = _gauge("comparisons", text, "outcome")
        for outcome in get_args(Outcome):
            gauge.add_metric([outcome], sum(row.outcome == outcome for row in rows))
        yield gauge
        if rows:
            age = _gauge("comparison_age_seconds", "How long ago the corp left the longest was compared.")
            age.add_metric([], max(0.0, time.time() - min(row.ended_at for row in rows).timestamp()))
            yield age

    def _tickets(self) -> Iterator[Metric]:
        ages = self._sources.tickets()
        if isinstance(ages, Fault):
            return
        age = _gauge(
            "suite_ticket_age_seconds", "How old the suite's newest ticket is; absent where none has come.", "app"
        )
        text = "Whether the suite's newest ticket is older than six hours, or none has come: nothing can be read."
        old = _gauge("suite_ticket_old", text, "app")
        for app, seconds in ages.items():
            if seconds is not None:
                age.add_metric([app], seconds)
            old.add_metric([app], float(seconds is None or seconds > OLD_TICKET))
        yield from (age, old)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"dingbridge_{name}", text, labels=labels)


def _queues(backlog: Backlog) -> Iterator[Metric]:
    jobs = _gauge("jobs", "Jobs on each queue: waiting, started, scheduled (put off) or failed.", "queue", "state")
    oldest = _gauge("oldest_waiting_seconds", "How long the queue's first job has waited; 0 for none.", "queue")
    accepted = CounterMetricFamily("dingbridge_accepted", "Events accepted since this Redis began.", labels=["type"])
    for queue in backlog.queues:
        for state, number in (
            ("waiting", queue.waiting),
            ("started", queue.claimed),
            ("scheduled", queue.put_off),
            ("failed", queue.failed),
        ):
            jobs.add_metric([queue.name, state], number)
        oldest.add_metric([queue.name], queue.oldest or 0.0)
        if queue.accepted:
            accepted.add_metric([queue.name], queue.accepted)
    yield from (jobs, oldest, accepted)


def _workers(backlog: Backlog) -> Iterator[Metric]:
    alive = [worker for worker in backlog.workers if worker.alive]
    gauge = _gauge("workers", "Workers that are alive, by what they do.", "state")
    for state in sorted({"busy", "idle", *(worker.state for worker in alive)}):
        gauge.add_metric([state], sum(worker.state == state for worker in alive))
    yield gauge


def _reads(reads: applied.Reads) -> Metric:
    gauge = _gauge("reads", "Reads that no event asks for: waiting in all, due, and tried before in vain.", "state")
    for state, number in zip(("waiting", "due", "tried"), reads, strict=True):
        gauge.add_metric([state], number)
    return gauge


def _upkeep(connection: redis.Redis) -> Iterator[Metric]:
    """Whether a clock leads, and what DingTalk does not let us call."""
    try:
        leads, paused = bool(connection.exists(LEADER_KEY)), budget.paused(connection)
    except redis.RedisError:
        return  # it went away since the queues were read
    clock = _gauge("clock_leads", "Whether a clock does the scheduled upkeep.")
    clock.add_metric([], float(leads))
    blocked = _gauge("api_blocked_seconds", "How long DingTalk still blocks this address for all APIs.")
    blocked.add_metric([], paused.all_seconds)
    pauses = _gauge("api_paused_seconds", "How long a call is still not made after a throttle.", "app", "call", "code")
    for pause in paused.calls:
        pauses.add_metric([pause.app, pause.call, pause.code], pause.seconds)
    spent = _gauge("api_quota_spent", "Whether a monthly API quota is spent: somebody has to buy more.")
    spent.add_metric([], float(any(pause.quota_spent for pause in paused.calls)))
    yield from (clock, blocked, pauses, spent)
