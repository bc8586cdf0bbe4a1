"""How many API calls changes cost: one of each kind on an idle system, and a burst."""

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa

from benchmarks.row import Goal, Measure, Row
from bridge import events, messages
from bridge.accept import Acceptor
from bridge.config import Config
from bridge.events import CONTACT_EVENTS, Entity, queue_names
from ops import compose
from tests.installation import CORP, Installation, installed
from tests.servers import running_redis, wait_until
from workers.copy import Copy
from workers.store import tables

#: Everything once, the end of the corp last.
KINDS = (*(CONTACT_EVENTS.keys() - {"org_remove"}), "org_remove")
#: People of the burst, events on them, and events that are accepted together.
PEOPLE, BURST, TOGETHER = 500, 5_000, 100
#: Calls of one API a second, as shipped, and of DingTalk's own limit.
PER_SECOND, LIMIT = 15, 20


@contextmanager
def of_each_kind() -> Iterator[Measure]:
    with TemporaryDirectory(prefix="dingbridge-bench-") as name, running_redis() as redis_url:
        folder = Path(name)

        def measure(number: int) -> dict[str, float]:
            datastore = f"sqlite:///{folder}/{number}.db"
            with installed(redis_url, datastore, folder) as here, here.receiving():
                _copy(here)
                figures: dict[str, float] = {}
                for kind in sorted(KINDS, key=lambda kind: kind == "org_remove"):
                    made, needed = _change(here, kind)
                    figures |= {f"{kind}, calls": made, f"{kind}, needed": needed}
                return figures

        yield measure


def _change(here: Installation, kind: str) -> tuple[int, int]:
    """Calls that one change led to, and those that are needed: what it names twice, whom it moves beside that once."""
    before = _memberships(here)
    here.simulator.calls.clear()
    callbacks = here.simulator.change("acme", kind)
    assert here.simulator.deliveries.wait_idle(20)
    here.work_off()
    named: set[Entity] = set()
    for made in callbacks:
        for event in messages.parse(json.dumps(made["payload"]).encode(), "acme", CORP).events:
            named |= set(events.entities(event))
    after = _memberships(here)
    moved = {userid for userid in before.keys() & after.keys() if before[userid] != after[userid]}
    moved -= {entity.id for entity in named if entity.kind == "user"}
    admins = {row["userid"] for row in here.simulator.truth("acme")["users"] if row["admin"]}
    # Whoever is an admin is asked for by a second call: no answer of a user tells the level.
    once = len(named) + any(entity.kind == "user" and entity.id in admins for entity in named)
    return here.simulator.calls.as_dict()["total"], 2 * once + len(moved)


def _memberships(here: Installation) -> dict[str, Any]:
    """Departments and roles of everybody."""
    people = here.simulator.truth("acme")["users"]
    return {row["userid"]: ([m["dept_id"] for m in row["departments"]], row["roles"]) for row in people}


def _copy(here: Installation) -> None:
    client = here.parts.readers.client(CORP)
    assert client is not None
    for progress in Copy(here.parts.store, here.parts.clock, here.parts.folder, client, CORP).run():
        assert not progress.faults


@contextmanager
def in_a_burst() -> Iterator[Measure]:
    settle: Mapping[str, Any] = {"settle_seconds": 5}
    with TemporaryDirectory(prefix="dingbridge-bench-") as name, running_redis() as redis_url:
        folder = Path(name)
        with installed(redis_url, f"sqlite:///{folder}/burst.db", folder, users=PEOPLE, dingtalk=settle) as here:

            def measure(_number: int) -> dict[str, float]:
                _copy(here)
                here.simulator.calls.clear()
                here.simulator.faults.calls_per_second = LIMIT
                seconds = _burst(here)
                here.simulator.faults.calls_per_second = 0
                return {"calls": here.simulator.calls.as_dict()["total"], "seconds": seconds}

            yield measure


def _burst(here: Installation) -> float:
    """All are accepted before the worker begins; seconds until all are applied and no read is left."""
    named = [row["userid"] for row in here.simulator.truth("acme")["users"]] * (BURST // PEOPLE)
    random.Random(7).shuffle(named)
    acceptor = Acceptor(here.parts.connection)
    for first in range(0, BURST, TOGETHER):
        told = [
            {"EventType": "user_modify_org", "CorpId": CORP, "eventId": f"b{number}", "userId": [userid]}
            for number, userid in enumerate(named[first : first + TOGETHER], first)
        ]
        parsed = [messages.parse(json.dumps(message).encode(), "acme", CORP) for message in told]
        acceptor.accept([event for one in parsed for event in one.events])
    dingtalk = {**here.settings["dingtalk"], "calls_per_second": PER_SECOND}
    parts = compose.open_parts(Config.model_validate({**here.settings, "dingtalk": dingtalk}))
    worker = compose.sync_worker(parts, queue_names())
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            if not worker.turn():
                worker.wait()

    begun = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            wait_until(lambda: _settled(here), 300, "the events")
            return time.monotonic() - begun
        finally:
            stopping.set()
            done.result(60)
            parts.close()


def _settled(here: Installation) -> bool:
    time.sleep(0.5)  # seldom asked, as it costs the worker time
    with here.parts.store.reading() as sql:
        done, noted = (
            sql.scalar(sa.select(sa.func.count()).select_from(table)) for table in (tables.events, tables.reads)
        )
    return done == BURST and noted == 0


ROWS = (
    Row(
        "kinds",
        "one change of each of the 15 kinds on an idle system; needed: each entity's read and its echo",
        of_each_kind,
        [
            Goal(
                "calls against needed",
                lambda f: (
                    sum(n for name, n in f.items() if name.endswith("calls"))
                    / sum(n for name, n in f.items() if name.endswith("needed"))
                ),
                1.1,
                1.0,
                more=False,
            )
        ],
        rounds=1,
    ),
    Row(
        "burst",
        f"{BURST} events on {PEOPLE} users, all accepted before the worker begins, {PER_SECOND} calls a second",
        in_a_burst,
        [Goal("calls against users", lambda f: f["calls"] / PEOPLE, 1.2, 1.05, more=False)],
        rounds=1,
    ),
)
