"""The faults one after another, a table of what held, and an exit code: `python -m tests.chaos [ROW …]`."""

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.chaos import faults
from tests.chaos.client import Outcome
from tests.chaos.jobs import POISON
from tests.chaos.site import Site, site
from tests.servers import free_port
from tests.test_deploy import nginx

#: Callbacks a second.
RATE = 300.0
#: Seconds without any progress after which what has no final row, or no job that ran, counts as lost.
STUCK_SECONDS = 90.0
#: Seconds of a reply at the 50th and the 99th percentile while Redis is away.
LIMITS = (0.05, 0.3)


class Row(NamedTuple):
    """A fault, and what must hold beside the promise that nothing acknowledged is lost."""

    name: str
    fault: Callable[[Site], None]
    #: Statuses other than 200 that callbacks may get; 0 stands for a broken connection.
    refusals: frozenset[int] = frozenset()
    #: Whether the reply's latency is bounded.
    quick: bool = False
    #: Events that end as failed.
    failed: frozenset[str] = frozenset()
    small_disk: bool = False
    behind_nginx: bool = False


ROWS = {
    "kills": Row("each kind of process killed, 10 times", faults.processes_killed, refusals=frozenset({0})),
    "redis-killed": Row("Redis killed, 5 times", faults.redis_killed),
    "redis-paused": Row("Redis paused for 60 s", faults.redis_paused, quick=True),
    "redis-unreachable": Row("Redis unreachable for 60 s", faults.redis_unreachable, quick=True),
    "memory": Row("Redis at maxmemory", faults.memory_full),
    "disk": Row("disk of the spool full", faults.disk_full, small_disk=True),
    "both": Row("maxmemory and disk full", faults.memory_and_disk_full, refusals=frozenset({503}), small_disk=True),
    "datastore": Row("PostgreSQL restarted, SQLite locked for 20 s", faults.datastore_away),
    "rolling": Row("rolling restart behind nginx, 3 times", faults.rolling_restarts, behind_nginx=True),
    "poison": Row("an event that kills its worker", faults.poison, failed=frozenset({POISON})),
}


class Verdict(NamedTuple):
    """What a row came to; `faults` is empty where all held."""

    outcomes: list[Outcome]
    caught_up: float
    faults: list[str]

    def percentile(self, share: float) -> float:
        """Seconds of the reply."""
        return statistics.quantiles([outcome.seconds for outcome in self.outcomes], n=100)[round(share * 100) - 1]


def run(row: Row, datastore: str, rate: float) -> Verdict:
    """An installation of its own for one fault."""
    with ExitStack() as stack:
        place = stack.enter_context(site(datastore, row.small_disk, row.behind_nginx))
        port = place.port
        if row.behind_nginx:
            port = free_port()
            stack.enter_context(nginx(place.folder, port, (place.port, place.second_port)))
        end_client = stack.enter_context(place.client(rate, port))
        row.fault(place)
        outcomes = end_client()
        begun = time.monotonic()
        problems = _wait(place, outcomes, row.failed)
        verdict = Verdict(outcomes, time.monotonic() - begun, problems)
        problems += _refusals(row, outcomes)
        if row.quick:
            names = ("p50", "p99")
            for name, share, limit in zip(names, (0.5, 0.99), LIMITS, strict=True):
                if verdict.percentile(share) > limit:
                    problems.append(f"{name} {verdict.percentile(share) * 1000:.0f} ms")
        if problems:
            Console(stderr=True).print(place.tail(), markup=False, highlight=False)
        return verdict


def _wait(place: Site, outcomes: Sequence[Outcome], failing: frozenset[str]) -> list[str]:
    """Until every acknowledged event has its final row and its job ran; what is missing once nothing moves."""
    acknowledged = {outcome.id for outcome in outcomes if outcome.acknowledged}
    missing, moved = -1, time.monotonic()
    while True:
        final, ran = place.final(), place.ran()
        failed = {event_id for event_id, (status, _) in final.items() if status == "failed"}
        lost, unrun = (acknowledged | failing) - final.keys(), acknowledged - ran - failing
        if len(lost) + len(unrun) != missing:
            missing, moved = len(lost) + len(unrun), time.monotonic()
        if not missing or time.monotonic() - moved > STUCK_SECONDS:
            break
        time.sleep(0.5)
    problems = [f"{len(lost)} events lost"] * bool(lost) + [f"{len(unrun)} jobs never ran"] * bool(unrun)
    problems += [f"{event_id} failed: {final[event_id][1]}" for event_id in sorted(failed - failing)[:3]]
    problems += [f"{event_id} did not fail" for event_id in failing - failed - lost]
    return problems


def _refusals(row: Row, outcomes: Sequence[Outcome]) -> list[str]:
    """Answers that should not have been; and a row that must bring some and did not has tried nothing."""
    seen = {outcome.status for outcome in outcomes if not outcome.acknowledged}
    wrong = seen - row.refusals
    problems = [
        f"{sum(outcome.status == status for outcome in outcomes)} answered with {status}" for status in sorted(wrong)
    ]
    problems += [f"never answered {status}" for status in row.refusals - seen]
    return problems


def main() -> None:
    """Run the rows that are asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--datastore", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--rate", type=float, default=RATE, help="callbacks a second")
    given = parser.parse_args()
    if unknown := [name for name in given.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    signal.signal(signal.SIGTERM, lambda _signum, _frame: sys.exit(1))  # and stop what was started
    console = Console(width=max(140, Console().width))
    table = Table("fault", "datastore", "sent", "acknowledged", "p50 ms", "p99 ms", "all final after s", "verdict")
    held = True
    sent = 0
    for name in given.rows or ROWS:
        for datastore in given.datastore or ["sqlite", "postgresql"]:
            console.print(f"[dim]{ROWS[name].name}, {datastore} …[/dim]")
            verdict = run(ROWS[name], datastore, given.rate)
            cells = (
                str(len(verdict.outcomes)),
                str(sum(outcome.acknowledged for outcome in verdict.outcomes)),
                f"{verdict.percentile(0.5) * 1000:.1f}",
                f"{verdict.percentile(0.99) * 1000:.0f}",
                f"{verdict.caught_up:.0f}",
            )
            said = "held" if not verdict.faults else "; ".join(verdict.faults)
            console.print(" ".join((*cells, said)), markup=False)
            table.add_row(ROWS[name].name, datastore, *cells, said)
            held &= not verdict.faults
            sent += len(verdict.outcomes)
    console.print(table)
    console.print(f"{sent} callbacks at {given.rate:g} a second; {'all held' if held else 'NOT all held'}")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
