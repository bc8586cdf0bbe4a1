"""Callbacks that DingTalk gave up, and what a recovery makes of them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import sqlalchemy as sa

from ops import compose
from tests.installation import AES_KEY, CORP, Installation, installed
from workers.moment import SECOND, Moment, RedisClock
from workers.recover import Outcome, Recovery
from workers.store import tables

INTERNAL_CALL = "/call_back/get_call_back_failed_result"
SUITE_CALL = "/topapi/callback/failrecord/list"
#: Callbacks that fail in most tests: three pages.
FAILED, PAGE = 25, 10


@contextmanager
def a_suite(redis_url: str, datastore_url: str, folder: Path) -> Iterator[Installation]:
    """A third-party app that has its ticket."""
    app: dict[str, Any] = {
        "name": "acme",
        "kind": "suite",
        "owner_keys": ["suitekey1"],
        "suite_key": "suitekey1",
        "corp_id": CORP,
    }
    app |= {"suite_secret": "s3cret", "keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}]}
    with installed(redis_url, datastore_url, folder, apps=[app], encryption_key="k" * 32) as installation:
        ticket = {"suite_key": "suitekey1", "ticket": installation.simulator.app("acme").ticket}
        with installation.parts.store.writing() as connection:
            connection.execute(sa.insert(tables.suites).values(ticket))
        yield installation


def a_recovery(place: Installation) -> Recovery:
    """As in a process that has just started."""
    return compose.recovery(place.config, place.parts.connection, place.parts.store)


def recover(place: Installation) -> Outcome:
    return a_recovery(place).recover(["acme"])


def fail(place: Installation, count: int = FAILED) -> None:
    """Callbacks that DingTalk gave up, each of its own second."""
    users = place.simulator.truth("acme")["users"]
    for number in range(count):
        told = {"EventType": "user_modify_org", "CorpId": CORP, "UserId": [users[number % len(users)]["userid"]]}
        born = 1_700_000_000_000 + number * 1000
        place.simulator.app("acme").give_up(told["EventType"], CORP, born, told)


def fail_rows(place: Installation, count: int = FAILED) -> None:
    """The same for a suite."""
    for number in range(count):
        (made,) = place.simulator.change("acme", "user_modify_org", deliver=False)
        born = time.time_ns() // 1_000_000 - number * 1000
        place.simulator.app("acme").give_up(made["event"], CORP, born, made["payload"])


def calls(place: Installation, call: str = INTERNAL_CALL) -> int:
    return int(place.simulator.calls.as_dict()["calls"].get(call, 0))


def asked(place: Installation) -> list[dict[str, Any]]:
    """The calls as the datastore knows them, in their order."""
    return sorted(place.rows(tables.failed_lists), key=lambda row: row["id"])


def accepted(place: Installation) -> int:
    """Events that Redis took as new."""
    return sum(int(number) for number in place.parts.connection.hvals("bridge:accepted"))


def events_by(place: Installation) -> list[tuple[str, str]]:
    """How each event came and ended."""
    place.work_off()
    return [(row["via"], row["status"]) for row in place.rows(tables.events)]


def all_is_done(place: Installation, count: int = FAILED) -> None:
    """Each of the failed callbacks is one event that is done, and every call is."""
    assert accepted(place) == count
    found = events_by(place)
    assert len(found) == count
    assert {via for via, _ in found} == {"failed_list"}
    assert {status for _, status in found} <= {"applied", "folded"}
    assert all(row["taken_at"] for row in asked(place))


def minutes(number: float) -> int:
    return round(number * 60 * SECOND)


class LaterClock(RedisClock):
    """Redis' clock some time from now, as the test says."""

    def __init__(self, connection: redis.Redis) -> None:
        super().__init__(connection)
        self.ahead = 0

    def now(self) -> Moment:
        moment = super().now()
        return Moment(moment.micros + self.ahead, moment.life)
