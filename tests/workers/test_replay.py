"""Recorded events come back as they were, chosen by id or by what is known of them, page by page."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from bridge.events import Event
from tests.workers.helpers import Desk, an_event
from workers import replay
from workers.replay import Named, Page, Selection, recorded
from workers.store import ledger, tables
from workers.store.ledger import Status, Verdict

NOW = datetime(2026, 1, 31, 8, 0, tzinfo=UTC)
#: No float and no re-encoder would leave it as it is.
PAYLOAD = b'{"EventType": "user_modify_org",  "eventId":"e1", "n":12345678901234567890, "name":"\\u738b", "x":1.50}'


def record(desk: Desk, *made: Event, at: datetime = NOW, status: Status = "applied") -> None:
    with desk.store.writing() as connection:
        stamp = round(at.timestamp() * 1_000_000)
        ledger.record(connection, [Verdict(event, stamp, status) for event in made], at)


def pages(desk: Desk, selection: Selection, with_jobs: bool = False) -> Sequence[Page]:
    return list(recorded(desk.store, selection, with_jobs))


def found(desk: Desk, **filters: Any) -> list[str]:
    return [event.id for page in pages(desk, Selection(**filters)) for event in page.events]


@pytest.mark.parametrize(("with_jobs", "via"), [(False, "replay"), (True, "replay_with_jobs")])
def test_an_event_comes_back_as_it_came(desk: Desk, with_jobs: bool, via: str) -> None:
    event = an_event(
        users=["007", "u2"],
        departments=[2**62],
        roles=[5],
        event_id="a/b 王",
        corp=None,
        occurred_at=1_700_000_000_123,
        payload=msgspec.Raw(PAYLOAD),
    )
    record(desk, event)
    (page,) = pages(desk, Selection(ids=["a/b 王"]), with_jobs)
    (again,) = page.events
    assert again.via == via
    assert bytes(again.payload) == PAYLOAD
    assert msgspec.structs.replace(again, via="http", payload=event.payload) == event


def test_one_without_a_time_of_its_own_comes_back_without(desk: Desk) -> None:
    record(desk, an_event(event_id="e1", occurred_at=None))
    (page,) = pages(desk, Selection(ids=["e1"]))
    assert page.events[0].occurred_at is None


def test_each_filter_and_all_of_them_together(desk: Desk) -> None:
    record(desk, an_event(users=["u1"], event_id="old"), at=NOW - timedelta(days=1))
    record(desk, an_event(users=["u1", "u2"], departments=[7], event_id="e1"))
    record(desk, an_event("label_user_change", users=["u11"], roles=[7], event_id="e2"))
    record(desk, an_event(users=["u1"], event_id="e3", corp="dingother"), status="failed")
    record(desk, an_event("org_dept_modify", departments=[77], event_id="e4"), at=NOW + timedelta(days=1))
    assert found(desk, types=["label_user_change", "org_dept_modify"]) == ["e2", "e4"]
    assert found(desk, corp_id="dingother") == found(desk, status="failed") == ["e3"]
    assert found(desk, entities=[Named("user", "u1")]) == ["old", "e1", "e3"]
    assert found(desk, entities=[Named("department", 7), Named("role", 7)]) == ["e1", "e2"]
    assert found(desk, since=NOW) == ["e1", "e2", "e3", "e4"]
    assert found(desk, until=NOW) == ["old"]
    assert found(desk, since=NOW, until=NOW + timedelta(days=1), entities=[Named("user", "u1")]) == ["e1", "e3"]
    assert found(desk, since=NOW, status="applied", types=["user_modify_org"]) == ["e1"]
    assert found(desk, types=["user_add_org"]) == []


def test_every_page_begins_where_the_one_before_it_ended(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many events are received in the same microsecond; none is left out, none comes twice."""
    monkeypatch.setattr(replay, "PAGE", 3)
    record(desk, *(an_event(event_id=f"b{number}") for number in range(7)))
    record(desk, an_event(event_id="a"), at=NOW + timedelta(microseconds=1))
    read = pages(desk, Selection(until=NOW + timedelta(days=1)))
    assert [len(page.events) for page in read] == [3, 3, 2]
    assert [event.id for page in read for event in page.events] == [*(f"b{number}" for number in range(7)), "a"]


def test_what_cannot_be_fed_in_again_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "PAGE", 2)
    record(desk, an_event(event_id="kept"), an_event(event_id="erased"))
    with desk.store.writing() as connection:
        where = tables.events.c.id == "erased"
        connection.execute(sa.update(tables.events).where(where).values(payload=None))
    lost = {"erased": "its payload is no longer kept", "never": "no such event is recorded"}
    read = pages(desk, Selection(ids=["kept", "never", "erased", "kept"]))
    assert [event.id for page in read for event in page.events] == ["kept"]
    assert {name: reason for page in read for name, reason in page.lost.items()} == lost
    (page,) = pages(desk, Selection(since=NOW))
    assert page.lost == {"erased": lost["erased"]}
