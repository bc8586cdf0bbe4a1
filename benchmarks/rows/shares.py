"""Whether a noisy corp delays the others: the lag of a thousand corps' events, without and with one that floods."""

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

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
#: Seconds that are measured, with and without it; bursts in them, and the others' events in each of these.
SECONDS, BURSTS, BURST = 15, 300, 2
#: How many times as much the noisy corp sends: 95 % of all.
FLOOD = 19
#: Seconds in which what is slow must have ended.
PATIENCE = 120
#: Milliseconds in which the API answers.
API_MS = 10
SUITE = "suitekey01"


class Phase(NamedTuple):
    """The median of the others' lag in ms, all events applied in a second, and the reads that were left."""

    lag: float
    rate: float
    owed: int


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
                    alone = _phase(here, store, corps, 0)
                    beside = _phase(here, store, corps, FLOOD)
                return {
                    "lag without the noisy corp, ms": alone.lag,
                    "lag beside it, ms": beside.lag,
                    "applied beside it, events/s": beside.rate,
                    "reads owed at its end": beside.owed,
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
    wait_until(lambda: len(_rows(store, begun)) == len(corps), PATIENCE, "the first events")


def _phase(here: Place, store: Store, corps: Sequence[str], flood: int) -> Phase:
    """Send for a while on a system at rest, then wait for the others' events alone."""
    wait_until(lambda: _owed(store) == 0, PATIENCE, "the echoes")
    begun = datetime.now(UTC)
    with here.redis as connection:
        acceptor = Acceptor(connection)
        due = time.monotonic()
        for _ in range(BURSTS):
            happened = [_event(corps[next(_numbers) % CORPS]) for _ in range(BURST)]
            happened += [_event(NOISY) for _ in range(BURST * flood)]
            acceptor.accept(happened)
            due += SECONDS / BURSTS
            time.sleep(max(0.0, due - time.monotonic()))
    applied, owed = len(_rows(store, begun)), _owed(store)
    assert not flood or applied < BURSTS * BURST * (1 + flood), "the worker keeps up: the flood is too small to tell"

    def others() -> list[float]:
        rows = _rows(store, begun)
        return [(row.applied_at - row.received_at).total_seconds() for row in rows if row.corp_id != NOISY]

    wait_until(lambda: len(others()) == BURSTS * BURST, PATIENCE, "the others' events")
    return Phase(1000 * statistics.median(others()), applied / SECONDS, owed)


def _owed(store: Store) -> int:
    with store.reading() as sql:
        return int(sql.scalar(sa.select(sa.func.count()).select_from(tables.reads)) or 0)


def _event(corp_id: str) -> Event:
    return an_event(users=[f"u{next(_numbers)}"], corp=corp_id, app="shop")


def _rows(store: Store, since: datetime) -> Sequence[sa.Row[Any]]:
    """The events received since then that have their final row."""
    columns = [tables.events.c[name] for name in ("corp_id", "received_at", "applied_at")]
    with store.reading() as sql:
        return sql.execute(sa.select(*columns).where(tables.events.c.received_at >= since)).all()


ROW = Row(
    "shares",
    f"{CORPS} corps of a suite, {BURSTS * BURST // SECONDS} events a second; "
    "then one more sends 95 % of all, more than the worker can do",
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
