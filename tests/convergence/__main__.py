"""`python -m tests.convergence [--examples N] [--seed S]`: thousands of examples, half of them on each datastore."""

import argparse
import random
import time

import click

from tests.convergence.run import postgresql, run, sqlite
from tests.servers import running_postgresql


def main() -> None:
    """Run them, say how many there were, and fail with the smallest example that does not end true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="the same seed, the same examples")
    given = parser.parse_args()
    click.echo(f"seed {given.seed}")
    done = 0
    with sqlite() as file, running_postgresql() as server, postgresql(server) as database:
        for name, url in (("SQLite", file), ("PostgreSQL", database)):
            begun = time.monotonic()
            counts = run(url, (given.examples + 1) // 2, given.seed, shrink=True)
            seconds = time.monotonic() - begun
            sorts = ", ".join(f"{count} {sort}" for sort, count in sorted(counts.items()))
            click.echo(f"{name}: {counts.total()} examples ended true in {seconds:.0f} s ({sorts})")
            done += counts.total()
    click.echo(f"{done} examples, all true")


if __name__ == "__main__":
    main()
