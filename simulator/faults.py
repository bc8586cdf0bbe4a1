"""What goes wrong on purpose, settable while the simulator runs, and the count of every API call."""

import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from simulator.tenant import MAX_LAG


class BadFault(ValueError):
    """A fault that does not exist, or a value it cannot have."""


@dataclass(slots=True)
class Faults:
    """Every fault with the value that means none."""

    #: Calls in any one second that an app may make of one API, else 90018; DingTalk's own limit is 20.
    calls_per_second: int | None = None
    #: Share of API calls answered with -1, 400001 or HTTP 502.
    error_rate: float = 0.0
    #: Milliseconds that each API call takes longer.
    latency_ms: float = 0.0
    #: Seconds by which reads lag behind changes, MAX_LAG at most.
    lag_seconds: float = 0.0
    #: "html" or "json": what an IP ban answers to every call (api.md §7).
    ban: str | None = None
    #: Gateway refusals come as errcode 88 with the real code in sub_code.
    wrap_errors: bool = False
    #: Shape of failed-list items: "new", "2016", "string" (the tag's value as JSON text) or "data" (it stands there).
    failed_form: str = "new"
    #: Share of callbacks that are never sent and never listed as failed.
    lose_rate: float = 0.0
    #: Share of callbacks that are sent twice.
    double_rate: float = 0.0
    #: Milliseconds, at most, that a callback waits before it is sent, so that they overtake one another.
    shuffle_ms: float = 0.0
    #: Seconds from a failed delivery to the next; after the last the event goes to the failed list (KB-A/0015).
    retry_delays: tuple[float, ...] = (10.0, 30.0)

    def set(self, values: Mapping[str, Any]) -> None:
        """Change some faults; BadFault, and nothing changed, when one is unknown or out of range."""
        for name, value in values.items():
            if name not in _VALID:
                raise BadFault(f"no fault is called {name}; there are {', '.join(_VALID)}")
            if not _VALID[name](value):
                raise BadFault(f"{name} cannot be {value!r}")
        for name, value in values.items():
            setattr(self, name, tuple(value) if isinstance(value, list) else value)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _delays(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_number(0, 3600)(delay) for delay in value)


_VALID: dict[str, Callable[[Any], bool]] = {
    "calls_per_second": lambda value: value is None or (isinstance(value, int) and value > 0),
    "error_rate": _number(0, 1),
    "latency_ms": _number(0, 60_000),
    "lag_seconds": _number(0, MAX_LAG),
    "ban": lambda value: value in (None, "html", "json"),
    "wrap_errors": lambda value: isinstance(value, bool),
    "failed_form": lambda value: value in ("new", "2016", "string", "data"),
    "lose_rate": _number(0, 1),
    "double_rate": _number(0, 1),
    "shuffle_ms": _number(0, 60_000),
    "retry_delays": _delays,
}


class CallLog:
    """Counts API calls per app and path, and bounds them by the second."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[tuple[str, str]] = Counter()
        self._recent: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._peaks: Counter[tuple[str, str]] = Counter()

    def admit(self, app: str, path: str, limit: int | None) -> bool:
        """Count a call; False when it is more than `limit` in this app's last second of this path."""
        now = time.monotonic()
        with self._lock:
            self._made[app, path] += 1
            recent = self._recent[app, path]
            while recent and recent[0] <= now - 1:
                recent.popleft()
            if limit is not None and len(recent) >= limit:
                self._refused[app, path] += 1
                return False
            recent.append(now)
            self._peaks[app, path] = max(self._peaks[app, path], len(recent))
            return True

    def as_dict(self) -> dict[str, Any]:
        """Totals by path, and for each app and path the calls, those refused, and the most in one second."""
        with self._lock:
            by_app: dict[str, dict[str, dict[str, int]]] = {}
            totals: Counter[str] = Counter()
            for (app, path), calls in self._made.items():
                totals[path] += calls
                row = {"calls": calls, "refused": self._refused[app, path], "peak": self._peaks[app, path]}
                by_app.setdefault(app, {})[path] = row
        return {"calls": dict(totals), "total": sum(totals.values()), "by_app": by_app}

    def clear(self) -> None:
        with self._lock:
            self._made.clear()
            self._refused.clear()
            self._peaks.clear()
            self._recent.clear()


def dice(rng: random.Random, rate: float) -> bool:
    """True in `rate` of all cases."""
    return rate > 0 and rng.random() < rate
