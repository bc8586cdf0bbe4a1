"""An installation of one suite, and corps that authorise it."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge import messages
from bridge.accept import Acceptor
from ops import compose
from simulator.apps import App
from tests.installation import AES_KEY, Installation, installed
from tests.servers import wait_until
from tests.truth import actual_tables, expected_tables
from workers.errors import ApiError
from workers.store import tables
from workers.suiteapi import Suite

SUITE = "suitekey00000000001"
SEALING_KEY = "a key of thirty-two characters.."
CORPS = ("dingcorp1", "dingcorp2", "dingcorp3")
#: What the API never tells a third-party app (KB-A/0056).
DENIED = frozenset({"mobile", "email", "hired_at"})
TABLES = tables.metadata.tables


def a_suite(**changed: Any) -> dict[str, Any]:
    app = {
        "name": "shop",
        "kind": "suite",
        "owner_keys": [SUITE],
        "suite_key": SUITE,
        "suite_secret": "s3cretOfTheSuite",
    }
    return app | {"keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}], "corp_id": CORPS[0]} | changed


def turns(stage: "Stage") -> None:
    """What waits is applied; reads that cannot be made stay."""
    while stage.place.worker.turn():
        pass


def a_millisecond_passes() -> None:
    """DingTalk tells one of two happenings from the other by their times."""
    now = time.time_ns() // 1_000_000
    wait_until(lambda: time.time_ns() // 1_000_000 > now)


def fails_at_first(monkeypatch: pytest.MonkeyPatch, call: str, error: ApiError) -> list[str]:
    """The first time that a suite makes this call it ends so; the corps for which it is made, as they come."""
    plain = getattr(Suite, call)
    asked: list[str] = []

    def failing(suite: Suite, corp_id: str, *more: Any) -> Any:
        asked.append(corp_id)
        if len(asked) == 1:
            raise error
        return plain(suite, corp_id, *more)

    monkeypatch.setattr(Suite, call, failing)
    return asked


@dataclass
class Stage:
    """An installation of one suite; what DingTalk tells it goes straight to the queue."""

    place: Installation
    rows: bool
    sent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def app(self) -> App:
        return self.place.simulator.app("shop")

    def tell(self, event: str, corp: str = CORPS[0], rows: bool | None = None) -> dict[str, Any]:
        """DingTalk tells the suite something about itself."""
        made = self.place.simulator.push("shop", event, self.rows if rows is None else rows, corp)
        self.accept(made["payload"])
        payload: dict[str, Any] = made["payload"]
        return payload

    def accept(self, *told: Mapping[str, Any]) -> None:
        for message in told:
            happened = messages.parse(json.dumps(message).encode(), "shop", None).events
            Acceptor(self.place.parts.connection).accept(happened)

    def change(self, event: str | None = None, corp: str = CORPS[0], entity: str | int | None = None) -> None:
        """The corp changes, and DingTalk pushes the rows."""
        made = self.place.simulator.change("shop", event, entity, deliver=False, corp=corp)
        self.accept(*(row["payload"] for row in made if row["payload"]["bizData"]))

    def made(self, event: str, entity: str | int | None = None) -> list[dict[str, Any]]:
        """What DingTalk would push of a change, for later."""
        return [made["payload"] for made in self.place.simulator.change("shop", event, entity, deliver=False)]

    def hurry(self) -> None:
        """What was put off because DingTalk was busy need not be waited for."""
        connection = self.place.parts.connection
        for key in connection.scan_iter("rq:scheduled:*"):
            for member in connection.zrange(key, 0, -1):
                connection.zadd(key, {member: 1})  # type: ignore[type-var]
        self.due_now()

    def due_now(self) -> None:
        """Reads that were put off need not be waited for."""
        with self.place.parts.store.writing() as connection:
            connection.execute(sa.update(tables.reads).values(due_at=0, taken_until=0))

    def settle(self) -> None:
        """Everything that follows is done: events, the comparisons that are due, and their reads."""
        self.place.work_off()
        nightly = compose.nightly(
            self.place.config, self.place.parts.connection, self.place.parts.store, self.place.parts.readers
        )
        self.wait_for_comparisons()
        nightly.run_due()
        self.place.work_off()

    def wait_for_comparisons(self) -> None:
        """Reads settle after a second; the comparison need not be waited for."""
        with self.place.parts.store.writing() as connection:
            due = tables.comparisons.c.due_at
            connection.execute(sa.update(tables.comparisons).where(due.is_not(None)).values(due_at=1))

    def long_ago(self) -> None:
        """Whatever was told of authorisations has settled."""
        with self.place.parts.store.writing() as connection:
            connection.execute(sa.update(tables.authorizations).values(told_at=1))

    def row(self, table: sa.Table, **where: Any) -> dict[str, Any]:
        (found,) = (row for row in self.place.rows(table) if where.items() <= row.items())
        return found

    def granted(self, corp: str = CORPS[0]) -> dict[str, Any]:
        return self.row(tables.authorizations, corp_id=corp)

    def begin(self, *corps: str) -> None:
        """The ticket has come, and these corps have authorised the suite."""
        self.tell("suite_ticket")
        for corp in corps or CORPS[:1]:
            self.tell("tmp_auth_code", corp)
        self.settle()

    def differences(self, corp: str = CORPS[0]) -> list[str]:
        """Each row that differs from what the corp lets the suite see."""
        expected = expected_tables(self.place.simulator.truth("shop", corp))
        actual = actual_tables(self.place.parts.store, corp)
        for rows in (expected["users"], actual["users"]):
            for user in rows.values():
                for name in DENIED:
                    user.pop(name, None)
        return [
            f"{name} {key}: DingTalk {rows.get(key)}, here {actual[name].get(key)}"
            for name, rows in expected.items()
            for key in sorted(rows.keys() | actual[name].keys(), key=str)
            if rows.get(key) != actual[name].get(key)
        ]

    def statuses(self) -> set[str]:
        return {row["status"] for row in self.place.rows(tables.events)}


@contextmanager
def a_stage(redis_url: str, datastore_url: str, folder: Path, rows: bool, **changed: Any) -> Iterator[Stage]:
    with installed(
        redis_url, datastore_url, folder, users=20, apps=[a_suite(**changed)], encryption_key=SEALING_KEY
    ) as place:
        yield Stage(place, rows)
