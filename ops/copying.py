"""`dingbridge sync`: copies organisations one after another, tells how far it is, and counts the calls."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

from bridge import heap
from bridge.config import Config
from bridge.errors import BridgeError
from ops import compose
from ops.compose import Parts
from workers import jobs
from workers.copy import Copy, Progress
from workers.errors import ApiError

#: Seconds between two lines where nobody looks at a terminal.
LINE_SECONDS = 10.0


class Result(NamedTuple):
    """What came of it: entities found, seconds, calls of each API, and what could not be copied."""

    entities: int
    seconds: float
    calls: dict[str, int]
    faults: list[str]


class Calls:
    """Counts this process's calls of DingTalk's API; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: Counter[str] = Counter()

    def observe(self, call: str, _outcome: str, _seconds: float) -> None:
        with self._lock:
            self._made[call] += 1

    def by_api(self) -> dict[str, int]:
        """The most called first."""
        return dict(self._made.most_common())


class Display(Protocol):
    """Shows people how far a copy is."""

    def show(self, corp_id: str, progress: Progress) -> None: ...


def copy_all(config: Config, corp_ids: Sequence[str], with_jobs: bool) -> Result:
    """Copy these corps; users' functions run for a first copy, too, where `with_jobs`.

    Raises BridgeError where one cannot be read by any app, and where it is interrupted.
    """
    calls = Calls()
    parts = compose.open_parts(config, calls.observe, bulk=True)
    heap.settle()
    begun = time.monotonic()
    faults: list[str] = []
    found = 0
    try:
        with _display() as display:
            for corp_id in corp_ids:
                found += _copy(parts, corp_id, with_jobs, display, faults)
    except KeyboardInterrupt:
        raise BridgeError("interrupted; within a day `dingbridge sync` goes on from here") from None
    finally:
        parts.close()
    return Result(found, round(time.monotonic() - begun, 1), calls.by_api(), faults)


def told(result: Result) -> str:
    """A result as lines for people."""
    lines = [f"{result.entities} departments, people and role lists copied in {result.seconds:.0f} s; calls made:"]
    return "\n".join([*lines, *(f"{count:>9} {call}" for call, count in result.calls.items())])


def _copy(parts: Parts, corp_id: str, with_jobs: bool, display: Display, faults: list[str]) -> int:
    client = parts.readers.client(corp_id)
    if client is None:
        raise BridgeError(f"no app has the credentials to read {corp_id}: set app_key and app_secret")
    copy = Copy(parts.store, parts.clock, parts.folder, client, corp_id, with_jobs=with_jobs)
    found = 0
    try:
        for progress in copy.run():
            display.show(corp_id, progress)
            found = progress.found
            faults += progress.faults
    except ApiError as error:
        faults.append(f"{corp_id} is not complete: {error}")
    finally:
        jobs.Dispatcher(parts.store, parts.connection).dispatch(copy.lanes)
    return found


@contextmanager
def _display() -> Iterator[Display]:
    """A bar on a terminal, elsewhere a line now and then; on standard error."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bars(bar)


class _Rate(ProgressColumn):
    """Entities a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


class _Bars:
    """First the departments that are listed, of a number that nobody knows; then the entities that are read."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._shown: tuple[str, bool] | None = None

    def show(self, corp_id: str, progress: Progress) -> None:
        if self._shown != (corp_id, progress.walked):
            self._shown = (corp_id, progress.walked)
            for task_id in self._bar.task_ids:
                self._bar.remove_task(task_id)
            what = "reading" if progress.walked else "listing departments"
            self._task = self._bar.add_task(f"{corp_id}: {what}", total=None, completed=progress.read)
        if progress.walked:
            self._bar.update(self._task, total=progress.found, completed=progress.read)
        else:
            self._bar.update(self._task, completed=progress.listed)


class _Lines:
    def __init__(self) -> None:
        self._due = time.monotonic() + LINE_SECONDS
        self._since: tuple[str, float, int] | None = None

    def show(self, corp_id: str, progress: Progress) -> None:
        now = time.monotonic()
        if progress.walked and (self._since is None or self._since[0] != corp_id):
            self._since = (corp_id, now, progress.read)
        if now < self._due:
            return
        self._due = now + LINE_SECONDS
        if not progress.walked or self._since is None:
            click.echo(f"{corp_id}: {progress.listed} departments listed, {progress.found} entities found", err=True)
            return
        _, begun, before = self._since
        rate = (progress.read - before) / max(now - begun, 0.001)
        left = f", {(progress.found - progress.read) / rate:.0f} s left" if rate else ""
        click.echo(f"{corp_id}: {progress.read} of {progress.found} read, {rate:.0f}/s{left}", err=True)
