"""What Prometheus sees of the receiver, all gunicorn workers of this host added up."""

import contextlib
import functools
import os
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from bridge import events, messages

#: Seconds; DingTalk gives up after 1.2 to 2.5 s, depending on which page one believes.
LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5)
#: The variable by which prometheus_client shares counters between processes.
MULTIPROCESS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: Bytes that all counters of an app take at most in a process's file, rounded up; of no app and of the histogram too.
ROOM = 64 << 10

log = structlog.get_logger()


class Metrics:
    """Counters of one receiver process. Labels hold app names and event types, never ids of people."""

    def __init__(self, apps: int = 1) -> None:
        """`apps`: of how many apps callbacks are counted."""
        self._shared = MULTIPROCESS_VARIABLE in os.environ and _make_room(apps)
        registry = CollectorRegistry()
        self.events = Counter(
            "dingbridge_events_total",
            "Events that callbacks brought, by what became of them: accepted, repeated, spooled or checked.",
            ["app", "type", "outcome"],
            registry=registry,
        )
        self.refused = Counter(
            "dingbridge_callbacks_refused_total",
            "Callbacks that were refused, by HTTP status.",
            ["app", "status"],
            registry=registry,
        )
        self.old_key = Counter(
            "dingbridge_callbacks_old_key_total",
            "Callbacks that came under a pair of keys which is not the app's first; none any more: remove that pair.",
            ["app"],
            registry=registry,
        )
        self.seconds = Histogram(
            "dingbridge_callback_seconds",
            "Time from a callback's first line to its reply.",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._registry = registry
        #: To look a counter up costs more than to raise it; there are few, whatever callbacks say.
        self._counter = functools.cache(self.events.labels)

    def count(self, app: str, event_type: str, outcome: str) -> None:
        """Count one event; a type that is not in the catalogue counts as `other`."""
        known = event_type in events.CATALOGUE or event_type in messages.CHECK_EVENTS
        self._counter(app, event_type if known else events.OTHER, outcome).inc()

    def render(self) -> bytes:
        """Prometheus' text format, for this host when gunicorn's workers share their counters."""
        return generate_latest(_all_processes() if self._shared else self._registry)


def _make_room(apps: int) -> bool:
    """Whether the files by which this process shares its counters have all their room; without, it counts for itself.

    prometheus_client maps files with holes into memory: who writes where the disk has no room left is killed.
    """
    folder = Path(os.environ[MULTIPROCESS_VARIABLE])
    sizes = {"counter": ROOM * (1 + apps), "histogram": ROOM}
    files = {folder / f"{kind}_{os.getpid()}.db": size for kind, size in sizes.items()}
    try:
        for path, size in files.items():
            with path.open("ab") as file:  # another process of this number may have left it
                file.write(bytes(max(0, size - file.tell())))
    except OSError as error:
        with contextlib.suppress(OSError):
            for path in files:
                path.unlink(missing_ok=True)
        values.ValueClass = values.MutexValue
        reason = os.strerror(error.errno or 0).lower()
        log.warning("the metrics are those of one process at a time", folder=str(folder), reason=reason)
        return False
    return True


def _all_processes() -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry
