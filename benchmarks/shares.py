"""Whether a noisy corp delays the others: the lag of a thousand corps' events, without and with one that floods.

`python -m benchmarks.shares [--corps 1000] [--rate 40] [--seconds 15] [--share N]`: the corps send so many events a
second together, then beside them one sends nineteen times as many, 95 % of all. DingTalk answers within 10 ms; one
worker, SQLite.
"""

import argparse
import itertools
import statistics
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import redis
import sqlalchemy as sa

from bridge.accept import Acceptor
from bridge.config import Config
from bridge.events import Entity, queue_names
from tests.installation import settings
from tests.servers import redis_process
from tests.workers.helpers import a_user, an_event, nobodys_suites
from workers.batch import CORP_SHARE, BatchWorker
from workers.fold import Folder
from workers.jobs import Dispatcher
from workers.moment import RedisClock
from workers.readers import Answer
from workers.refresh import Refresher
from workers.registry import Registry
from workers.store import migrate, tables
from workers.store.engine import Store, open_store

NOISY = "dingnoisy"
#: The noisy corp sends so many times as much as all others: 95 % of all.
FLOOD = 19
#: Seconds of an API call, and how many are made at once.
CALL_SECONDS, THREADS = 0.01, 32


class Calls:
    """Stands in for Readers: every user is known."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS)

    def clients(self, corp_ids: Collection[str]) -> dict[str, object]:
        return dict.fromkeys(corp_ids, self)

    def read(self, wanted: Mapping[Entity, bool]) -> tuple[dict[Entity, Answer], dict[Entity, Exception]]:
        def ask(entity: Entity) -> Answer:
            time.sleep(CALL_SECONDS)
            return a_user(entity.id)

        return dict(zip(wanted, self._pool.map(ask, wanted), strict=True)), {}


def feed(connection: redis.Redis, corps: int, rate: float, noisy: bool, until: float) -> None:
    """Events at their pace, in small bursts as they come together at Redis."""
    acceptor = Acceptor(connection)
    numbers = itertools.count()
    step = 0.05
    due = time.monotonic()
    owed = flood = 0.0
    while (now := time.monotonic()) < until:
        owed += rate * step
        flood += rate * FLOOD * step if noisy else 0
        batch = [an_event(users=[f"u{next(numbers)}"], corp=f"ding{next(numbers) % corps}") for _ in range(int(owed))]
        batch += [an_event(users=[f"u{next(numbers)}"], corp=NOISY) for _ in range(int(flood))]
        owed, flood = owed % 1, flood % 1
        if batch:
            acceptor.accept(batch)
        due += step
        time.sleep(max(0.0, due - now))


def run(
    store: Store, connection: redis.Redis, corps: int, rate: float, seconds: float, share: int, noisy: bool
) -> list[float]:
    """The lags of the other corps' events."""
    clock = RedisClock(connection)
    config = Config.model_validate(settings())
    refresher = Refresher(store, clock, Calls())  # type: ignore[arg-type]
    folder = Folder(refresher, Registry(), nobodys_suites(config, store, clock), 3600)
    worker = BatchWorker(queue_names(), connection, store, folder, Dispatcher(store, connection), share=share)
    end = time.monotonic() + seconds
    feeding = threading.Thread(target=feed, args=(connection, corps, rate, noisy, end))
    feeding.start()
    while time.monotonic() < end:
        if not worker.turn():
            worker.wait()
    feeding.join()
    with store.reading() as sql:
        rows = sql.execute(sa.select(tables.events.c.corp_id, tables.events.c.received_at, tables.events.c.applied_at))
        found = [(row.corp_id, (row.applied_at - row.received_at).total_seconds()) for row in rows]
    waiting = connection.llen("rq:queue:user_modify_org")
    others = [lag for corp_id, lag in found if corp_id != NOISY]
    print(
        f"{'with' if noisy else 'without'} the noisy corp: {len(found) / seconds:.0f} events/s applied, {waiting} wait"
    )
    return others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=40)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--share", type=int, default=CORP_SHARE)
    given = parser.parse_args()
    medians = []
    for noisy in (False, True):
        with TemporaryDirectory() as folder, redis_process() as server, server.client() as connection:
            store = open_store(f"sqlite:///{Path(folder)}/shares.db")
            migrate.migrate(store)
            lags = run(store, connection, given.corps, given.rate, given.seconds, given.share, noisy)
            store.close()
        medians.append(statistics.median(lags))
        middle, most = medians[-1] * 1000, max(lags) * 1000
        print(f"  the others' lag: median {middle:.0f} ms of {len(lags)} events, most {most:.0f} ms")
    print(f"the median with it is {medians[1] / medians[0]:.2f} times that without it")


if __name__ == "__main__":
    main()
