"""The call budget under load: what many events cost, how late they are during a copy, what a throttle costs."""

import json
import random
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from bridge import messages
from bridge.accept import Acceptor
from bridge.config import Config
from bridge.events import Event, queue_names
from ops import compose
from ops.compose import Parts
from simulator.server import Simulator
from tests.installation import CORP, Installation, installed
from tests.servers import wait_until
from tests.truth import differences
from tests.workers.helpers import an_event
from workers.batch import BatchWorker
from workers.budget import BURSTS
from workers.copy import Copy
from workers.errors import Throttled
from workers.store import tables

USER_GET = "/topapi/v2/user/get"
#: Calls of one API in a second that DingTalk answers.
DINGTALK_LIMIT = 20


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, users=12) as installation:
        yield installation


def people(simulator: Simulator) -> list[str]:
    return [row["userid"] for row in simulator.truth("acme")["users"]]


def accept(place: Installation, *happened: Event) -> int:
    """How many there are; they are accepted just now."""
    assert all(Acceptor(place.parts.connection).accept(happened))
    return len(happened)


def copy(parts: Parts) -> None:
    client = parts.readers.client(CORP)
    assert client is not None
    for _ in Copy(parts.store, parts.clock, parts.folder, client, CORP).run():
        pass


@contextmanager
def another_host(place: Installation, **dingtalk: Any) -> Iterator[Parts]:
    """The parts of a process elsewhere, with connections of its own and these settings."""
    given = {**place.settings, "dingtalk": {**place.settings["dingtalk"], **dingtalk}}
    parts = compose.open_parts(Config.model_validate(given))
    yield parts
    parts.close()


@contextmanager
def working(parts: Parts) -> Iterator[BatchWorker]:
    """A sync worker in a thread of its own."""
    worker = compose.sync_worker(parts, queue_names())
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            if not worker.turn():
                stopping.wait(0.01)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(work)
        try:
            yield worker
        finally:
            stopping.set()
            done.result(60)


@dataclass
class Refusals:
    """Whether DingTalk refused a call that the budget granted, and how long this machine or its Redis stood still."""

    place: Installation
    longest_stall: float = 0.0

    def none(self) -> bool:
        """Calls that a standing machine held back arrive at once: the budget allows for a third of a second.

        On its way a call waits for this machine three times: for Redis' answer, to be sent, and to be counted.
        """
        made = self.place.simulator.calls.as_dict()["by_app"]["acme"].values()
        return 3 * self.longest_stall > 1 / BURSTS or not any(row["refused"] for row in made)


@contextmanager
def watched(place: Installation) -> Iterator[Refusals]:
    seen, stopping = Refusals(place), threading.Event()

    def watch() -> None:
        last = time.monotonic()
        while not stopping.wait(0.02):
            place.parts.connection.ping()
            now = time.monotonic()
            seen.longest_stall, last = max(seen.longest_stall, now - last), now

    with ThreadPoolExecutor(1) as pool:
        pool.submit(watch)
        try:
            yield seen
        finally:
            stopping.set()


def calls(place: Installation, call: str = USER_GET) -> Mapping[str, int]:
    """Of one API: how many, how many refused, and the most in a second."""
    return dict(place.simulator.calls.as_dict()["by_app"]["acme"][call])


def settled(place: Installation, number: int) -> bool:
    """Whether so many events have their final row and no read is noted; seldom asked, as it costs the workers time."""
    time.sleep(0.5)
    with place.parts.store.reading() as connection:
        done, noted = (
            connection.scalar(sa.select(sa.func.count()).select_from(table)) for table in (tables.events, tables.reads)
        )
    return done == number and noted == 0


def attempts(place: Installation, event: Event) -> int:
    return int(place.parts.connection.hget(f"rq:job:{event.id}", "number_of_retries") or 0)


def test_five_thousand_events_on_five_hundred_users(redis_url: str, tmp_path: Path) -> None:
    """All accepted before the worker starts."""
    datastore = f"sqlite:///{tmp_path}/dingbridge.db"
    with installed(redis_url, datastore, tmp_path, users=500, dingtalk={"settle_seconds": 5}) as place:
        copy(place.parts)
        place.simulator.calls.clear()
        place.simulator.faults.calls_per_second = DINGTALK_LIMIT
        named = people(place.simulator) * 10
        random.Random(7).shuffle(named)
        for start in range(0, len(named), 100):
            accept(place, *(an_event(users=[userid]) for userid in named[start : start + 100]))
        with watched(place) as refusals, another_host(place, calls_per_second=15) as elsewhere, working(elsewhere):
            wait_until(lambda: settled(place, 5000), 240, "the events")
        # Echoes included; besides, whoever is an admin makes a list of admins due.
        assert calls(place)["calls"] <= 600
        assert place.simulator.calls.as_dict()["total"] <= 630
        assert refusals.none()
        assert {row["status"] for row in place.rows(tables.events)} == {"applied", "folded"}


def test_two_hosts_share_the_budget(redis_url: str, tmp_path: Path) -> None:
    datastore = f"sqlite:///{tmp_path}/dingbridge.db"
    with installed(redis_url, datastore, tmp_path, users=60, dingtalk={"calls_per_second": 15}) as place:
        place.simulator.faults.calls_per_second = DINGTALK_LIMIT
        accept(place, *(an_event(users=[userid]) for userid in people(place.simulator)))
        begun = time.monotonic()
        with watched(place) as refusals, another_host(place) as elsewhere, working(place.parts), working(elsewhere):
            wait_until(lambda: settled(place, 60), 60, "the events")
        assert refusals.none()
        assert calls(place)["calls"] <= 15 * (time.monotonic() - begun + 1)


def test_events_during_a_full_copy_are_not_late(redis_url: str, tmp_path: Path) -> None:
    datastore = f"sqlite:///{tmp_path}/dingbridge.db"
    limit = {"calls_per_second": 15}
    with installed(redis_url, datastore, tmp_path, users=250, dingtalk=limit) as place:
        place.simulator.faults.calls_per_second = DINGTALK_LIMIT
        told = 0
        with (
            watched(place) as refusals,
            another_host(place) as elsewhere,
            working(elsewhere),
            ThreadPoolExecutor(1) as pool,
        ):
            copying = pool.submit(copy, place.parts)
            while not copying.done():
                for made in place.simulator.change("acme", "user_modify_org", deliver=False):
                    message = json.dumps(made["payload"]).encode()
                    told += accept(place, *messages.parse(message, "acme", CORP).events)
                time.sleep(0.5)  # the pace of what happens
            copying.result()
            wait_until(lambda: settled(place, told), 60, "the events")
        assert told > 10
        lags = [
            (row["applied_at"] - row["received_at"]).total_seconds()
            for row in place.rows(tables.events)
            if row["applied_at"]
        ]
        assert statistics.median(lags) < 5
        assert refusals.none()
        assert differences(place) == []


def test_a_throttle_costs_no_attempt_and_backs_off(place: Installation) -> None:
    """DingTalk answers one call a second here, and there is no budget of ours: 90018 again and again."""
    place.simulator.faults.calls_per_second = 1
    happened = [an_event(users=[userid]) for userid in people(place.simulator)[:4]]
    accept(place, *happened)
    with capture_logs() as said, working(place.parts):
        wait_until(lambda: len(place.rows(tables.events)) == 4, 60, "the events")
    assert calls(place)["refused"] > 0
    assert [attempts(place, event) for event in happened] == [0] * 4
    assert {row["status"] for row in place.rows(tables.events)} == {"applied"}
    pauses = [line for line in said if line["event"] == "a call pauses"]
    assert pauses


@pytest.mark.parametrize("ban", ["html", "json"])
def test_a_ban_stops_every_host_for_five_minutes(place: Installation, ban: str) -> None:
    place.simulator.faults.ban = ban
    event = an_event(users=people(place.simulator)[:1])
    accept(place, event)
    with capture_logs() as said:
        place.worker.turn()
    assert [line["log_level"] for line in said if "blocks this address" in line["event"]] == ["error"]
    place.simulator.faults.ban = None
    made = place.simulator.calls.as_dict()["total"]
    with another_host(place) as elsewhere:
        client = elsewhere.readers.client(CORP)
        assert client is not None
        for call in (client.role_groups, client.admins):
            with pytest.raises(Throttled) as caught:
                call()
            assert 280 < caught.value.wait <= 300
    assert place.simulator.calls.as_dict()["total"] == made
    assert attempts(place, event) == 0
    assert place.rows(tables.events) == []
