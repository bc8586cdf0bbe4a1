"""Measure the rows that are asked for, all by default, in rounds: `python -m benchmarks [ROW …]`."""

import argparse
import os
import signal
import sys
import time

from rich.console import Console

from benchmarks import report
from benchmarks.report import Result
from benchmarks.row import Row
from benchmarks.rows import applied, calls, copy, drain, latency, memory, receiver, scale, shares, steady

#: In the order of the table of what must hold.
ROWS = {
    row.name: row
    for row in (
        receiver.ROW,
        steady.ROW,
        *calls.ROWS,
        applied.ROW,
        applied.BY_WORKERS,
        latency.ROW,
        drain.ROW,
        copy.ROW,
        memory.ROW,
        *scale.ROWS,
        shares.ROW,
    )
}
ROUNDS = 5


def measure(row: Row, rounds: int, console: Console) -> Result:
    """All rounds of one row; its contenders take turns within each."""
    load = os.getloadavg()[0]
    taken = []
    with row.prepared() as take:
        for number in range(min(rounds, row.rounds)):
            begun = time.monotonic()
            taken.append(take(number))
            console.print(f"[dim]{row.name}, round {number + 1}, {time.monotonic() - begun:.0f} s[/dim]")
    return report.result(row, taken, load)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    if unknown := [name for name in given.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    signal.signal(signal.SIGTERM, lambda _signum, _frame: sys.exit(1))  # and stop what was started
    console = Console(width=max(120, Console().width), highlight=False)
    for name in given.rows or ROWS:
        result = measure(ROWS[name], given.rounds, console)
        report.show(result, console)
        console.print("written:", *report.write([result], list(ROWS)))


if __name__ == "__main__":
    main()
