"""Prometheus sees the whole installation, also while half of it is away, and never an id."""

import re
from datetime import UTC, datetime, timedelta

import redis
import sqlalchemy as sa

from bridge.embedded import NO_RETRY
from tests.installation import CORP, settings
from tests.ops.console import sample
from tests.ops.console.visitor import Opener
from workers.budget import Budget
from workers.clock import LEADER_KEY
from workers.store import failed_lists, tables
from workers.store.engine import Store
from workers.store.suites import Ticket, keep_ticket


def scrape(opened: Opener, **more: redis.Redis) -> dict[str, float]:
    answer = opened({}, **more).get("/metrics")  # nobody needs to be configured
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    return values(answer.text)


def values(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_an_empty_installation(opened: Opener) -> None:
    seen = scrape(opened)
    assert seen['dingbridge_up{component="redis"}'] == seen['dingbridge_up{component="datastore"}'] == 1
    assert seen['dingbridge_workers{state="busy"}'] == seen["dingbridge_clock_leads"] == 0
    assert seen['dingbridge_reads{state="due"}'] == seen['dingbridge_recent_events{status="failed"}'] == 0
    assert not any(name.startswith("dingbridge_lag_seconds") for name in seen)


def test_queues_lag_and_upkeep(opened: Opener, connection: redis.Redis, store: Store) -> None:
    made = sample.accept(connection, 10)
    sample.fail(connection, 2, "no permission")
    claims, taken = sample.claim(connection, 3)
    claims.put_off(taken[0], 300, 1)
    sample.record(store, made[:3])
    with store.writing() as sql:
        row = {"corp_id": CORP, "kind": "user", "entity_id": sample.USERID, "due_at": 0, "priority": 0, "cause": "echo"}
        sql.execute(sa.insert(tables.reads), [row])
    connection.set(LEADER_KEY, "me")
    seconds, _ = connection.time()
    connection.hset("bridge:budget", "pause", (seconds + 100) * 1_000_000)
    Budget(connection, 15).pause("acme", "/topapi/v2/user/get", 8, "90018")
    seen = scrape(opened)
    assert 7 < seen['dingbridge_api_paused_seconds{app="acme",call="/topapi/v2/user/get",code="90018"}'] <= 8
    assert seen["dingbridge_api_quota_spent"] == 0
    for state, number in {"waiting": 5, "scheduled": 1, "failed": 2, "started": 2}.items():
        assert seen[f'dingbridge_jobs{{queue="user_add_org",state="{state}"}}'] == number
    assert seen['dingbridge_accepted_total{type="user_add_org"}'] == 10
    assert 0 < seen['dingbridge_oldest_waiting_seconds{queue="user_add_org"}'] < 60
    assert seen['dingbridge_reads{state="waiting"}'] == seen['dingbridge_reads{state="due"}'] == 1
    assert seen['dingbridge_recent_events{status="applied"}'] == 3
    assert 0.4 < seen['dingbridge_lag_seconds{quantile="0.95"}'] < 0.6
    assert seen["dingbridge_clock_leads"] == 1
    assert 90 < seen["dingbridge_api_blocked_seconds"] <= 101
    assert not any(re.search(f"{CORP}|{sample.USERID}|event-", name) for name in seen)


def test_failed_lists(opened: Opener, store: Store) -> None:
    now = datetime.now(UTC)
    with store.writing() as sql:
        for app, minutes, error in (("acme", 90, None), ("acme", 10, "items"), ("shop", 20, None)):
            call = failed_lists.begin(sql, app, now - timedelta(minutes=minutes))
            failed_lists.finish(sql, call, now, error)
        failed_lists.begin(sql, "shop", now)
    seen = scrape(opened)
    assert 600 <= seen['dingbridge_failed_list_asked_seconds{app="acme"}'] < 660
    assert 0 <= seen['dingbridge_failed_list_asked_seconds{app="shop"}'] < 60
    assert seen['dingbridge_failed_list_calls{state="unfinished"}'] == 1
    assert seen['dingbridge_failed_list_calls{state="faulty"}'] == 1


def test_a_spent_quota_is_an_alarm(opened: Opener, connection: redis.Redis) -> None:
    Budget(connection, 15).pause("acme", "/auth/scopes", 600, "90020")
    assert scrape(opened)["dingbridge_api_quota_spent"] == 1


def test_what_is_away_is_told_and_left_out(opened: Opener, store: Store) -> None:
    nowhere = redis.Redis(unix_socket_path="/nonexistent", retry=NO_RETRY)
    seen = scrape(opened, at=nowhere)
    assert seen['dingbridge_up{component="redis"}'] == 0
    assert 'dingbridge_reads{state="due"}' in seen
    with store.writing() as sql:
        sql.execute(sa.text("DROP TABLE reads"))
    assert scrape(opened)['dingbridge_up{component="datastore"}'] == 0


def test_comparisons_by_how_they_ended(opened: Opener, store: Store) -> None:
    assert scrape(opened)['dingbridge_comparisons{outcome="stopped"}'] == 0
    sample.compare(store, "stopped", stopped=["it would remove 30 of 60 users"])
    seen = scrape(opened)
    assert seen['dingbridge_comparisons{outcome="stopped"}'] == 1
    assert seen['dingbridge_comparisons{outcome="done"}'] == 0
    assert 0 <= seen["dingbridge_comparison_age_seconds"] < 60


def test_a_ticket_that_is_missing_or_old(opened: Opener, store: Store) -> None:
    """A third-party app without a fresh one reads nothing: somebody is told."""
    app = settings()["apps"][0]
    suite = {"name": "shop", "kind": "suite", "owner_keys": ["key"], "keys": app["keys"], "suite_secret": "secret"}
    apps = {"apps": [app, *({**suite, "name": name, "suite_key": name} for name in ("none", "old", "new"))]}

    def scraped() -> dict[str, float]:
        visitor = opened(**apps, encryption_key="k" * 32)
        return values(visitor.get("/metrics").text)

    now = datetime.now(UTC)
    with store.writing() as sql:
        keep_ticket(sql, "old", Ticket("t", now - timedelta(hours=6, minutes=1)))
        keep_ticket(sql, "new", Ticket("t", now - timedelta(hours=5, minutes=59)))
    seen = scraped()
    assert {app: seen[f'dingbridge_suite_ticket_old{{app="{app}"}}'] for app in ("none", "old", "new")} == {
        "none": 1, "old": 1, "new": 0,
    }  # fmt: skip
    assert 'dingbridge_suite_ticket_age_seconds{app="none"}' not in seen
    assert 21_600 < seen['dingbridge_suite_ticket_age_seconds{app="old"}'] < 21_700
    visitor = opened(**apps, encryption_key="k" * 32)
    visitor.log_in()
    page = visitor.get("/").text
    assert "The suite_ticket of none has not come yet" in page and "The suite_ticket of old is 6" in page
    assert "The suite_ticket of new" not in page
