"""Final rows of events, the log of changes, and the jobs owed."""

import json
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from bridge import queues
from bridge.messages import MAX_DEPTH, MAX_TEXT, parse
from tests.installation import CORP
from tests.workers.helpers import Desk, an_event
from workers.store import ledger, tables
from workers.store.draft import Change
from workers.store.ledger import Owed, Status, Verdict

NOW = datetime(2026, 1, 2, 3, 4, 5, 600_000, UTC)
LATER = datetime(2026, 1, 3, tzinfo=UTC)
STATUSES = get_args(Status)
#: Microseconds.
STAMP = 1_767_000_000_123_456


def record(desk: Desk, *verdicts: Verdict, at: datetime = NOW) -> set[str]:
    with desk.store.writing() as connection:
        return ledger.record(connection, verdicts, at)


def verdict(status: Status, error: str | None = None, event_id: str = "e1") -> Verdict:
    return Verdict(an_event(event_id=event_id), STAMP, status, error)


def test_a_final_row_tells_all_of_its_event(desk: Desk) -> None:
    payload = msgspec.Raw(b'{"a":[1,"\xc3\xa9"]}')
    event = an_event("label_user_change", ["u1", "u2"], [2**62], [7], event_id="e1", via="failed_list", payload=payload)
    assert record(desk, Verdict(event, STAMP, "applied")) == {"e1"}
    row = desk.row(tables.events)
    assert (row["id"], row["app"], row["corp_id"], row["type"]) == ("e1", "acme", CORP, "label_user_change")
    assert (row["via"], row["status"], row["error"]) == ("failed_list", "applied", None)
    assert row["payload"] == {"a": [1, "é"]}
    assert (row["user_ids"], row["dept_ids"], row["role_ids"]) == (["u1", "u2"], [2**62], [7])
    assert row["occurred_at"] == datetime.fromtimestamp(1_700_000_000, UTC)
    assert row["received_at"] == datetime(2025, 12, 29, 9, 20, 0, 123_456, UTC)
    assert row["applied_at"] == NOW


@pytest.mark.parametrize(
    "value",
    [
        rb'"\u0000"',
        rb'"\ud83d"',
        rb'"\ud83d\udc09"',
        b"9" * 4000,
        b"1e308",
        b"-0.0",
        b"5e-324",
        b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1),
        b'{"":{"a":1,"a":2}}',
    ],
    ids=["NUL", "half a pair", "pair", "digits", "large", "minus zero", "small", "deep", "doubled"],
)
@pytest.mark.parametrize("rows", [b"", b'"bizData":[{"a":1},5,null],'], ids=["", "no rows"])
def test_whatever_the_receiver_takes_can_be_kept(desk: Desk, value: bytes, rows: bytes) -> None:
    message = b'\xef\xbb\xbf {"EventType":"SYNC_HTTP_PUSH_HIGH",%s"CorpId":"c","x":%s}' % (rows, value)
    taken = [queues.decode(queues.encode(event)) for event in parse(message, "acme", CORP).events]
    assert record(desk, *(Verdict(event, STAMP, "ignored") for event in taken)) == {event.id for event in taken}
    kept = {row["id"]: row["payload"] for row in desk.rows(tables.events)}
    assert kept == {event.id: json.loads(bytes(event.payload)) for event in taken}
    assert all(isinstance(payload, dict) for payload in kept.values())


def test_the_longest_keys_that_the_receiver_takes_fit_an_index(desk: Desk) -> None:
    """Without the limit PostgreSQL refuses the row, and with it the whole batch."""
    keys = {name: "".join(map(chr, range(0x4E00 + at, 0x4E00 + at + MAX_TEXT // 3))) for at, name in enumerate(
        ("subscribe_id", "corp_id", "biz_id", "biz_type", "gmt_modified")
    )}  # fmt: skip
    message = json.dumps({"EventType": "SYNC_HTTP_PUSH_HIGH", "bizData": [keys]}).encode()
    (event,) = parse(message, "acme", None).events
    assert event.id == "/".join(keys.values())
    assert record(desk, Verdict(event, STAMP, "ignored")) == {event.id}


@pytest.mark.parametrize(
    ("status", "done"), [("applied", True), ("folded", True), ("ignored", False), ("failed", False)]
)
def test_only_what_was_applied_has_a_time_of_it(desk: Desk, status: Status, done: bool) -> None:
    record(desk, verdict(status))
    assert (desk.row(tables.events)["applied_at"] is not None) is done


def test_an_event_may_have_neither_corp_nor_time(desk: Desk) -> None:
    record(desk, Verdict(an_event("suite_ticket", corp=None, occurred_at=None), STAMP, "ignored", "why"))
    row = desk.row(tables.events)
    assert (row["corp_id"], row["occurred_at"], row["error"]) == (None, None, "why")


@pytest.mark.parametrize("first", [status for status in STATUSES if status != "failed"])
@pytest.mark.parametrize("second", STATUSES)
def test_a_final_row_stays(desk: Desk, first: Status, second: Status) -> None:
    record(desk, verdict(first, "first"))
    assert record(desk, verdict(second, "second"), at=LATER) == set()
    row = desk.row(tables.events)
    assert (row["status"], row["error"]) == (first, "first")


@pytest.mark.parametrize("second", STATUSES)
def test_a_failed_row_gives_way(desk: Desk, second: Status) -> None:
    record(desk, verdict("failed", "first"))
    assert record(desk, verdict(second, "second"), at=LATER) == {"e1"}
    row = desk.row(tables.events)
    assert (row["status"], row["error"]) == (second, "second")
    assert row["applied_at"] == (LATER if second in ("applied", "folded") else None)


def test_many_at_once_tell_which_are_new(desk: Desk) -> None:
    record(desk, verdict("applied", event_id="b"))
    assert record(desk, *(verdict("folded", event_id=name) for name in "cba")) == {"a", "c"}
    assert record(desk) == set()


def test_what_is_settled_is_whatever_has_not_failed(desk: Desk) -> None:
    record(desk, *(verdict(status, event_id=status) for status in STATUSES))
    with desk.store.reading() as connection:
        assert ledger.settled(connection, [*STATUSES, "unknown"]) == {"applied", "folded", "ignored"}
        assert ledger.settled(connection, []) == set()


def test_changes_get_their_seq_in_their_order(desk: Desk) -> None:
    found = [Change(CORP, "user", f"u{n}", "create", None, {"n": n}, "e1", False) for n in range(300)]
    with desk.store.writing() as connection:
        seqs = ledger.log_changes(connection, found, NOW)
        assert ledger.log_changes(connection, [], NOW) == []
    assert seqs == sorted(seqs)
    rows = desk.rows(tables.changes)
    assert [(row["seq"], row["after"]["n"]) for row in rows] == list(zip(seqs, range(300), strict=True))
    assert (rows[0]["before"], rows[0]["changed_at"], rows[0]["event_id"]) == (None, NOW, "e1")


def test_jobs_owed_keep_their_order(desk: Desk) -> None:
    with desk.store.writing() as connection:
        ledger.owe(connection, [Owed("m.f", "jobs", "lane", "e1", n) for n in range(20)])
        ledger.owe(connection, [])
    rows = desk.rows(tables.outbox)
    assert [row["change_seq"] for row in rows] == list(range(20))
    assert {(row["function"], row["queue"], row["lane"], row["event_id"]) for row in rows} == {
        ("m.f", "jobs", "lane", "e1")
    }
    assert {(row["enqueued_at"], row["failed_at"]) for row in rows} == {(None, None)}


@pytest.mark.parametrize("occurred_at", [10**18, -(10**18), -1])
def test_a_time_that_is_none_is_null(desk: Desk, occurred_at: int) -> None:
    record(desk, Verdict(an_event(occurred_at=occurred_at), STAMP, "applied"))
    assert desk.row(tables.events)["occurred_at"] is None
