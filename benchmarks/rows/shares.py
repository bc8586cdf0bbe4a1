"""Whether a noisy corp delays the others: the lag of a thousand corps' events, without and with one that floods."""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from benchmarks import api
from benchmarks.place import DEPARTMENT, ROLE, Place, place
from benchmarks.row import Goal, Measure, Row, ratio
from bridge.accept import Acceptor
from bridge.events import Event
from tests.installation import AES_KEY
from tests.servers import wait_until
from tests.workers.helpers import an_event
from workers.store import tables
from workers.store.engine import Store

CORPS, NOISY = 1_000, "dingnoisy"
#: Events a second of all others together, and how many times as much the noisy corp sends: 95 % of all.
RATE, FLOOD = 40, 19
#: Seconds that are measured, with and without it; between two bursts, as events come together at Redis.
SECONDS, STEP = 15, 0.05
#: Milliseconds in which the API answers.
API_MS = 10
SUITE = "suitekey01"


@contextmanager
def prepared() -> Iterator[Measure]:
    """One sync worker, so that the flood is more than it can do."""
    app = {"name": "shop", "kind": "suite", "owner_keys": [SUITE], "suite_key": SUITE, "suite_secret": "s3cret"}
    apps: list[dict[str, Any]] = [app | {"keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}]}]
    with api.answering(API_MS) as url:
        given: dict[str, Any] = {"apps": apps, "encryption_key": "k" * 32}

        def measure(_number: int) -> dict[str, float]:
            with place(dingtalk={"api": url, "calls_per_second": 0}, **given) as here, here.store() as store:
                corps = [f"ding{number:032x}" for number in range(CORPS)]
                _authorised(store, [*corps, NOISY])
                with here.working(1):
                    _warm_up(here, store, corps)
                    alone, _ = _lag(here, store, corps, 0)
                    beside, rate = _lag(here, store, corps, FLOOD)
                return {
                    "lag without the noisy corp, ms": alone,
                    "lag beside it, ms": beside,
                    "applied beside it, events/s": rate,
                }

        yield measure


def _authorised(store: Store, corps: Sequence[str]) -> None:
    """They have let the suite in, and their department and role are known."""
    now = datetime.now(UTC)
    with store.writing() as sql:
        sql.execute(sa.insert(tables.suites), [{"suite_key": SUITE, "ticket": "ticket", "ticket_at": now}])
        for corp_id in corps:
            key = {"corp_id": corp_id}
            sql.execute(sa.insert(tables.corps), key)
            granted = {"status": "active", "scope": {"users": [], "departments": [1], "user_fields": []}}
            sql.execute(sa.insert(tables.authorizations), key | granted | {"suite_key": SUITE, "updated_at": now})
            sql.execute(sa.insert(tables.departments), key | {"dept_id": DEPARTMENT, "version": 1})
            sql.execute(sa.insert(tables.roles), key | {"role_id": ROLE})


_numbers = itertools.count()


def _warm_up(here: Place, store: Store, corps: Sequence[str]) -> None:
    """One event of each corp, so that each has its token."""
    begun = datetime.now(UTC)
    with here.redis as connection:
        Acceptor(connection).accept([_event(corp_id) for corp_id in corps])
    wait_until(lambda: len(_rows(store, begun)) == len(corps), 120, "the first events")


def _lag(here: Place, store: Store, corps: Sequence[str], flood: int) -> tuple[float, float]:
    """The median of the others' lag, in milliseconds, and how many events a second were applied."""
    begun = datetime.now(UTC)
    with here.redis as connection:
        acceptor = Acceptor(connection)
        due = time.monotonic()
        for _ in range(round(SECONDS / STEP)):
            happened = [_event(corps[next(_numbers) % CORPS]) for _ in range(round(RATE * STEP))]
            happened += [_event(NOISY) for _ in range(round(RATE * STEP * flood))]
            acceptor.accept(happened)
            due += STEP
            time.sleep(max(0.0, due - time.monotonic()))
    rows = _rows(store, begun)
    lags = [(row.applied_at - row.received_at).total_seconds() for row in rows if row.corp_id != NOISY]
    return 1000 * statistics.median(lags), len(rows) / SECONDS


def _event(corp_id: str) -> Event:
    return an_event(users=[f"u{next(_numbers)}"], corp=corp_id, app="shop")


def _rows(store: Store, since: datetime) -> Sequence[sa.Row[Any]]:
    """The events received since then that have their final row."""
    columns = [tables.events.c[name] for name in ("corp_id", "received_at", "applied_at")]
    with store.reading() as sql:
        return sql.execute(sa.select(*columns).where(tables.events.c.received_at >= since)).all()


ROW = Row(
    "shares",
    f"{CORPS} corps of a suite, {RATE} events a second; then one more sends 95 % of all, more than the worker can do",
    prepared,
    [
        Goal(
            "the others' median lag beside a noisy corp against without it",
            ratio("lag beside it, ms", "lag without the noisy corp, ms"),
            2.0,
            1.0,
            more=False,
        )
    ],
    rounds=3,
)
