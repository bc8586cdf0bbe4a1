"""The same answers from SQLite and PostgreSQL."""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from ops.console import applied
from tests.installation import CORP
from tests.ops.console import sample
from workers.store import ledger, tables
from workers.store.engine import Store
from workers.store.ledger import Verdict


def test_events(both_stores: Store) -> None:
    sample.record(both_stores, [sample.event(1), sample.event(2)])
    sample.record(both_stores, [sample.event(3)], "failed", "no permission")
    with both_stores.reading() as sql:
        rows = applied.latest(sql)
        assert {row.id for row in rows} == {"event-1", "event-2", "event-3"}
        assert rows == sorted(rows, key=lambda row: row.received_at, reverse=True)
        (failed,) = applied.latest(sql, "failed")
        assert (failed.error, failed.lag) == ("no permission", None)
        found = applied.find_event(sql, "event-1", None)
        assert found is not None
        assert found.lag is not None and 0.4 < found.lag < 0.6
        assert applied.find_event(sql, "event-9", found.at) is None
        assert applied.counts(sql) == {"applied": (2, 2), "folded": (0, 0), "ignored": (0, 0), "failed": (1, 1)}


def test_old_events_count_for_the_day_and_not_for_the_hour(both_stores: Store) -> None:
    with both_stores.writing() as sql:
        for number, age in enumerate((timedelta(hours=3), timedelta(hours=30))):
            received = datetime.now(UTC) - age
            stamp = round(received.timestamp() * 1_000_000)
            ledger.record(sql, [Verdict(sample.event(number), stamp, "applied")], received)
        assert applied.counts(sql)["applied"] == (0, 1)
        assert applied.lag(sql) is None


def test_lag(both_stores: Store) -> None:
    now = datetime.now(UTC)
    with both_stores.writing() as sql:
        for number in range(100):
            stamp = round(now.timestamp() * 1_000_000) - number * 10_000
            ledger.record(sql, [Verdict(sample.event(number), stamp, "applied")], now)
        lag = applied.lag(sql)
    assert lag is not None
    assert [round(seconds, 2) for seconds in lag] == [0.49, 0.94, 0.99]


def test_a_job_id_finds_its_event_by_the_time(both_stores: Store) -> None:
    odd = sample.event(1)
    odd = type(odd)(**{name: getattr(odd, name) for name in odd.__struct_fields__} | {"id": "a/b/c"})
    sample.record(both_stores, [odd, sample.event(2)])
    with both_stores.reading() as sql:
        row = applied.find_event(sql, "a/b/c", None)
        assert row is not None
        assert row.shown_id != row.id
        assert applied.find_event(sql, row.shown_id, None) is None
        assert applied.find_event(sql, row.shown_id, row.at) == row
        for beyond in (10**20, -(10**20), 10**18):
            assert applied.find_event(sql, row.shown_id, beyond) is None


def test_changes_are_columns_without_values(both_stores: Store) -> None:
    sample.change(both_stores, "event-1")
    with both_stores.reading() as sql:
        update, create = applied.changes_of(sql, "event-1")
    assert (update.entity, update.operation, update.columns) == ("user", "update", ("mobile", "title"))
    assert (create.operation, create.columns) == ("create", ())


def test_reads_and_totals(both_stores: Store) -> None:
    now = round(datetime.now(UTC).timestamp() * 1_000_000)
    with both_stores.writing() as sql:
        assert applied.reads_noted(sql) == (0, 0, 0)
        rows = [(now - 10_000_000, 0), (now - 10_000_000, 3), (now + 60_000_000, 1)]
        values = [
            {"corp_id": CORP, "kind": "user", "entity_id": str(n), "due_at": due, "priority": 0, "cause": "echo",
             "attempts": attempts}
            for n, (due, attempts) in enumerate(rows)
        ]  # fmt: skip
        sql.execute(sa.insert(tables.reads), values)
        assert applied.reads_noted(sql) == (3, 2, 2)
        gone = datetime.now(UTC)
        sql.execute(
            sa.insert(tables.corps), [{"corp_id": CORP, "status": "active"}, {"corp_id": "x", "status": "revoked"}]
        )
        sql.execute(
            sa.insert(tables.users),
            [{"corp_id": CORP, "userid": str(n), "deleted_at": gone if n else None} for n in range(3)],
        )
        sql.execute(sa.insert(tables.roles), [{"corp_id": CORP, "role_id": 1}])
        assert applied.totals(sql) == [(CORP, "active", 1, 0, 1), ("x", "revoked", 0, 0, 0)]
