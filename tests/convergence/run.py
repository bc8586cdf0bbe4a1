"""Runs the machine over so many examples on one kind of datastore."""

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import hypothesis
import structlog
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test

from tests.convergence.house import House
from tests.convergence.machine import Convergence
from tests.convergence.times import Times, turned_by_hand
from tests.servers import fresh_database, redis_process
from workers.store import migrate
from workers.store.engine import open_store

#: Steps of an example, at most.
STEPS = 40
#: Where SQLite's files are fast, if there is such a place.
_MEMORY = Path("/dev/shm")


@contextmanager
def sqlite() -> Iterator[str]:
    """The URL of an empty SQLite file, in memory where there is a place for it."""
    with TemporaryDirectory(prefix="dingbridge-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        yield f"sqlite:///{folder}/dingbridge.db"


@contextmanager
def postgresql(server: str) -> Iterator[str]:
    """The URL of an empty database that does not wait for its disk: nothing here loses its power."""
    with fresh_database(server) as url:
        yield f"{url}&options=-csynchronous_commit%3Doff"


def run(datastore_url: str, examples: int, seed: int, shrink: bool) -> Counter[str]:
    """Fails where an example does not end true; how many there were of each sort. The same seed, the same examples."""
    store = open_store(datastore_url)
    migrate.migrate(store)
    # Thousands of warnings, of what is done on purpose.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        with (
            redis_process("--appendonly", "no") as server,
            server.client() as connection,
            turned_by_hand(Times(connection)) as times,
        ):

            class Machine(Convergence):
                house = House(store, connection, times)
                counts: ClassVar[Counter[str]] = Counter()

            settings = hypothesis.settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            run_state_machine_as_test(hypothesis.seed(seed)(Machine), settings=settings)  # type: ignore[no-untyped-call]
            return Machine.counts
    finally:
        structlog.reset_defaults()
        store.close()
