"""How long from a callback's reply until its row is committed, one event at a time on an idle system."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from benchmarks.api import answering
from benchmarks.load import flood
from benchmarks.place import callback, payload, place
from benchmarks.row import Goal, Measure, Row, figure, percentile
from tests.servers import wait_until
from workers.store import tables
from workers.store.engine import Store

#: Milliseconds in which the API answers.
API_MS = 10
#: Events of a round, and seconds between them, in which everything comes to rest.
EVENTS, PAUSE = 60, 0.1
#: Seconds between two looks for the row.
LOOK = 0.001


@contextmanager
def prepared() -> Iterator[Measure]:
    with answering(API_MS) as api, place(dingtalk={"api": api, "calls_per_second": 0}) as here, here.store() as store:
        key = here.config.apps[0].keys[0].key()
        with here.receiving() as (port, _), here.working(2):

            def measure(number: int) -> dict[str, float]:
                waits = []
                for event in range(EVENTS):
                    message = payload(number * EVENTS + event, 100_000)
                    flood(port, [callback(here.config, message, key)], 1)
                    begun = time.perf_counter()
                    wait_until(lambda message=message: _there(store, message["eventId"]), 10, "the event's row", LOOK)  # type: ignore[misc]
                    waits.append(1000 * (time.perf_counter() - begun))
                    time.sleep(PAUSE)
                return {f"accepted to committed, p{share} ms": percentile(waits, share / 100) for share in (50, 90)}

            yield measure


def _there(store: Store, event_id: str) -> bool:
    with store.reading() as sql:
        return bool(sql.scalar(sa.select(tables.events.c.id).where(tables.events.c.id == event_id)))


ROW = Row(
    "latency",
    f"{EVENTS} callbacks one at a time, API at {API_MS} ms, two sync workers, SQLite",
    prepared,
    [
        Goal(
            "callback accepted to row committed, p50 ms",
            figure("accepted to committed, p50 ms"),
            API_MS + 25,
            API_MS + 10,
            more=False,
        )
    ],
)
