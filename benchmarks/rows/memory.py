"""Whether processes grow: their own memory after 2 000 and after 200 000 events."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from benchmarks.api import answering
from benchmarks.jobs import TYPE
from benchmarks.load import flood
from benchmarks.place import Place, callback, place, resident
from benchmarks.row import Goal, Measure, Row, ratio
from tests.installation import CORP
from tests.servers import wait_until
from workers.store import tables
from workers.store.engine import Store

#: Events at the first look and at the last; on so many people.
EARLY, LATE, PEOPLE = 2_000, 200_000, 2_000
#: Callbacks before it is waited until all is done.
CALLBACKS = 10_000
#: So many that each process of the receiver is reached before the first look.
CONNECTIONS = 32
#: One event in so many has a user's function.
WITH_JOB = 4
PATIENCE = 300


@contextmanager
def prepared() -> Iterator[Measure]:
    given: dict[str, Any] = {"jobs": ["benchmarks.jobs"]}
    with (
        answering(0) as api,
        place(dingtalk={"api": api, "calls_per_second": 0}, **given) as here,
        here.store() as store,
        here.receiving() as (port, serve),
        here.working(1) as (work,),
        here.running("-m", "ops", "jobs") as jobs,
    ):
        processes = {"serve": serve.pid, "work": work.pid, "jobs": jobs.pid}

        def measure(_number: int) -> dict[str, float]:
            numbers = itertools.count()
            done = 0
            figures: dict[str, float] = {}
            for until in (EARLY, LATE):
                while done < until:
                    callbacks = min(CALLBACKS, until - done)
                    flood(port, (_callback(here, next(numbers)) for _ in range(callbacks)), CONNECTIONS)
                    done += callbacks
                    wait_until(lambda done=done: _all_done(store, done), PATIENCE, "the events and jobs")  # type: ignore[misc]
                figures |= {f"{name}, {until} events, MiB": resident(pid) for name, pid in processes.items()}
            return figures

        yield measure


def _callback(here: Place, number: int) -> bytes:
    event_type = TYPE if number % WITH_JOB == 0 else "user_modify_org"
    message = {
        "EventType": event_type,
        "CorpId": CORP,
        "eventId": f"event-{number}",
        "UserId": [f"user{number % PEOPLE}"],
    }
    return callback(here.config, message, here.config.apps[0].keys[0].key())


def _all_done(store: Store, count: int) -> bool:
    time.sleep(0.2)  # seldom asked, as it costs the workers time
    with store.reading() as sql:
        done, owed = (
            sql.scalar(sa.select(sa.func.count()).select_from(table)) for table in (tables.events, tables.outbox)
        )
    return done == count and owed == 0


ROW = Row(
    "memory",
    f"memory of each process's own after {EARLY} and {LATE} events, one in {WITH_JOB} with a user's function",
    prepared,
    [
        Goal(
            f"{name}, {LATE} against {EARLY} events",
            ratio(f"{name}, {LATE} events, MiB", f"{name}, {EARLY} events, MiB"),
            1.2,
            1.05,
            more=False,
        )
        for name in ("serve", "work", "jobs")
    ],
    rounds=1,
)
