"""The failed list: whatever is killed when, nothing that DingTalk told is lost or doubled; and when it is asked for."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from structlog.testing import capture_logs

from bridge.accept import Acceptor
from bridge.config import RetentionConfig
from bridge.errors import NotDurable
from bridge.events import CONTACT_EVENTS
from bridge.misses import MISSES_KEY, Miss, Misses
from ops import compose
from simulator import api_callbacks
from tests.installation import AES_KEY, CORP, Installation, installed
from tests.servers import wait_until
from tests.truth import differences
from workers import clock as clock_module
from workers import recover as module
from workers.clock import Clock
from workers.copy import Copy
from workers.dingtalk import DingTalk
from workers.jobs import Dispatcher
from workers.moment import SECOND, Moment, RedisClock
from workers.recover import Outcome, Recovery, due_at
from workers.store import failed_lists, tables

INTERNAL_CALL = "/call_back/get_call_back_failed_result"
SUITE_CALL = "/topapi/callback/failrecord/list"
#: Callbacks that fail in most tests: three pages.
FAILED, PAGE = 25, 10


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_callbacks, "FAILED_PAGE", PAGE)
    monkeypatch.setattr("workers.dingtalk.FAILED_RECORDS_PAGE", PAGE)
    monkeypatch.setattr(module, "ACCEPT_EVENTS", PAGE // 2)


@pytest.fixture
def place(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, datastore_url, tmp_path) as installation:
        yield installation


@pytest.fixture
def one_place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """On SQLite alone, for what the datastore has no part in."""
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path) as installation:
        yield installation


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


@pytest.fixture
def suite(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with a_suite(redis_url, datastore_url, tmp_path) as installation:
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


class Killed(BaseException):
    """A process that ends here: nothing of ours handles it."""


def kill(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, *, turn: int = 1, after: bool = False
) -> Callable[[], None]:
    """End at the `turn`-th call of this, before it or after; gives the way to let it live again."""
    plain = getattr(owner, name)
    turns = iter(range(1, 1000))

    def deadly(*args: Any, **kwargs: Any) -> Any:
        last = next(turns) == turn
        if last and not after:
            raise Killed
        result = plain(*args, **kwargs)
        if last:
            raise Killed
        return result

    monkeypatch.setattr(owner, name, deadly)
    return lambda: monkeypatch.setattr(owner, name, plain)


def die(place: Installation, revive: Callable[[], None]) -> None:
    with pytest.raises(Killed):
        recover(place)
    revive()


#: Where a process can end without any loss: what ends it there, by name.
STEPS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "before the call is noted": (failed_lists, "begin", {}),
    "before the call is made": (DingTalk, "failed_callbacks", {}),
    "after the reply is stored": (Recovery, "_keep", {"after": True}),
    "before anything is accepted": (Acceptor, "accept", {}),
    "after half is accepted": (Acceptor, "accept", {"turn": 2}),
    "after all is accepted": (Acceptor, "accept", {"turn": 2, "after": True}),
    "before it is marked": (failed_lists, "finish", {}),
    "between two pages": (failed_lists, "begin", {"turn": 2}),
    "in the last page": (Acceptor, "accept", {"turn": 5}),
}


class TestKilled:
    @pytest.mark.parametrize("step", STEPS)
    def test_nothing_is_lost_or_doubled(self, place: Installation, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        fail(place)
        owner, name, options = STEPS[step]
        die(place, kill(monkeypatch, owner, name, **options))
        monkeypatch.setattr(module, "LOST_AFTER", timedelta(0))
        recover(place)
        assert recover(place).new == 0
        all_is_done(place)

    def test_a_reply_that_never_reached_the_datastore_is_owned_up_to(
        self, place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The one gap: DingTalk has told and forgotten. Only this page is lost, and its call says so."""
        fail(place)
        die(place, kill(monkeypatch, Recovery, "_keep"))
        assert recover(place) == Outcome(replies=2, new=FAILED - PAGE)
        (broken, *_) = asked(place)
        assert (broken["body"], broken["taken_at"], broken["error"]) == (None, None, None)
        monkeypatch.setattr(module, "LOST_AFTER", timedelta(0))
        outcome = recover(place)
        assert outcome.replies == 1 and len(outcome.faults) == 1 and "no reply was stored" in outcome.faults[0]
        assert "no reply was stored" in asked(place)[0]["error"]
        assert recover(place).faults == []

    def test_a_reply_that_comes_after_all_is_taken(self, place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process gave the call up meanwhile."""
        monkeypatch.setattr(module, "LOST_AFTER", timedelta(0))
        fail(place)
        plain = Recovery._keep

        def late(self: Recovery, number: int, body: bytes) -> None:
            a_recovery(place).recover([])
            assert asked(place)[-1]["taken_at"] is not None
            plain(self, number, body)

        monkeypatch.setattr(Recovery, "_keep", late)
        assert recover(place).new == FAILED
        all_is_done(place)
        assert {row["error"] for row in asked(place)} == {None}


#: The same for a suite, whose list DingTalk keeps until it is confirmed: there is no gap.
SUITE_STEPS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "before the reply is stored": (Recovery, "_keep", {}),
    "after the reply is stored": (Recovery, "_keep", {"after": True}),
    "after half is accepted": (Acceptor, "accept", {"turn": 2}),
    "before it is marked": (failed_lists, "finish", {}),
    "before it is confirmed": (failed_lists, "begin", {"turn": 2}),
    "before the confirming reply is stored": (Recovery, "_keep", {"turn": 2}),
    "between two pages": (failed_lists, "begin", {"turn": 3}),
}


class TestSuites:
    @pytest.mark.parametrize("step", SUITE_STEPS)
    def test_nothing_is_lost_or_doubled(self, suite: Installation, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        fail_rows(suite)
        owner, name, options = SUITE_STEPS[step]
        die(suite, kill(monkeypatch, owner, name, **options))
        monkeypatch.setattr(module, "LOST_AFTER", timedelta(0))
        recover(suite)
        all_is_done(suite)

    def test_all_pages_are_read_and_confirmed(self, suite: Installation) -> None:
        fail_rows(suite)
        assert recover(suite) == Outcome(replies=6, new=FAILED)
        assert len(suite.simulator.app("acme").confirmed) == FAILED
        assert recover(suite) == Outcome(replies=1)
        assert calls(suite, SUITE_CALL) == 7
        all_is_done(suite)

    def test_its_events_have_the_ids_of_the_callbacks(self, suite: Installation) -> None:
        fail_rows(suite, 3)
        payloads = [failure.payload for failure in suite.simulator.app("acme").failures]
        assert recover(suite).new == 3
        sent = {
            "/".join([*(str(row[name]) for name in ("subscribe_id", "corp_id", "biz_id", "biz_type")), sequence])
            for payload in payloads
            for row in payload["bizData"]
            for sequence in [json.loads(row["biz_data"])["syncSeq"]]
        }
        suite.work_off()
        assert {row["id"] for row in suite.rows(tables.events)} == sent

    def test_what_comes_in_before_the_confirmation_is_not_lost(
        self, suite: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail_rows(suite, 3)
        plain = DingTalk.failed_records

        def busy(self: DingTalk, tags: Any, cursor: int, confirm: bool, keep: Any) -> Any:
            if confirm:
                fail_rows(suite, 2)
            return plain(self, tags, cursor, confirm, keep)

        monkeypatch.setattr(DingTalk, "failed_records", busy)
        assert recover(suite) == Outcome(replies=2, new=5)
        all_is_done(suite, 5)

    def test_without_a_ticket_it_says_what_to_do(self, suite: Installation) -> None:
        with suite.parts.store.writing() as connection:
            connection.execute(sa.delete(tables.suites))
        (fault,) = recover(suite).faults
        assert "no suite_ticket has come yet; the developer console pushes it again" in fault
        assert fault in f"acme: {asked(suite)[0]['error']}"


class TestReading:
    @pytest.mark.parametrize("form", ["new", "2016", "string", "data"])
    def test_callbacks_that_nobody_took_come_in_and_every_table_is_true(self, place: Installation, form: str) -> None:
        parts = place.parts
        client = parts.readers.client(CORP)
        assert client is not None
        assert list(Copy(parts.store, parts.clock, parts.folder, client, CORP).run())[-1].faults == []
        place.simulator.faults.set({"retry_delays": [], "failed_form": form})
        sent = []
        for event in CONTACT_EVENTS.keys() - {"org_remove"}:
            sent += place.simulator.change("acme", event)  # nobody listens
        assert place.simulator.deliveries.wait_idle(30)
        assert place.simulator.deliveries.as_dict()["failed"] == len(sent)
        assert differences(place) != []
        outcome = recover(place)
        # In the forms without an eventId two that say the same of the same moment are one.
        assert outcome.new + outcome.repeats == len(sent)
        assert (outcome.unreadable, outcome.faults) == (0, [])
        place.work_off()
        assert differences(place) == []
        assert {row["type"] for row in place.rows(tables.events)} == CONTACT_EVENTS.keys() - {"org_remove"}

    def test_the_reply_is_stored_byte_by_byte(self, place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        body = '{ "errcode" : 0,\r\n"failed_list":[], "x":"张\\u0000\\ud83d"}\n'.encode() + b"\xff\x00"
        a_reply(monkeypatch, body)
        recover(place)
        assert [row["body"] for row in asked(place)] == [body]

    def test_an_item_that_cannot_be_read_stops_no_other(
        self, place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        good = {"call_back_tag": "user_add_org", "event_time": 1, "user_add_org": {"userid": ["zhang san"]}}
        broken = {"call_back_tag": "user_add_org", "event_time": 2, "user_add_org": '{"userid":["zhang san"'}
        answer = {"errcode": 0, "failed_list": [7, good, broken, {}, good | {"event_time": 3}], "has_more": False}
        a_reply(monkeypatch, json.dumps(answer).encode())
        with capture_logs() as logs:
            outcome = recover(place)
        assert (outcome.replies, outcome.new, outcome.unreadable) == (1, 2, 3)
        (row,) = asked(place)
        for told in (row["error"], *outcome.faults, json.dumps(logs)):
            assert all(f"item {number} of 5: " in told for number in (1, 3, 4))
            assert "zhang" not in told
        assert json.loads(row["body"]) == answer

    @pytest.mark.parametrize(
        "body", [b'{"errcode":0,"failed_list":[{', b"[]", b'{"errcode":0,"failed_list":' + b"[" * 100_000, b""]
    )
    def test_a_reply_that_cannot_be_read_is_kept_and_stops_nothing(
        self, place: Installation, monkeypatch: pytest.MonkeyPatch, body: bytes
    ) -> None:
        with monkeypatch.context() as patched:
            a_reply(patched, body)
            assert len(recover(place).faults) == 1
        (row,) = asked(place)
        assert row["body"] == body and row["error"] and row["taken_at"]
        fail(place, 1)
        assert recover(place) == Outcome(replies=1, new=1)

    def test_what_a_refusal_lists_all_the_same_is_taken(
        self, place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        item = {"call_back_tag": "user_add_org", "event_time": 1, "user_add_org": {"userid": ["u"]}}
        a_reply(monkeypatch, json.dumps({"errcode": -1, "failed_list": [item]}).encode())
        outcome = recover(place)
        assert (outcome.new, outcome.unreadable, len(outcome.faults)) == (1, 0, 1)

    def test_a_list_that_does_not_end_is_left_for_the_next_run(
        self, one_place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MAX_PAGES", 2)
        fail(one_place)
        assert recover(one_place).new == 2 * PAGE
        assert recover(one_place).new == FAILED - 2 * PAGE

    def test_a_datastore_that_goes_away_meanwhile_is_waited_for(
        self, one_place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "KEEP_SECONDS", 0.01)
        plain, tries = failed_lists.keep, []

        def unreliable(*args: Any) -> None:
            tries.append(args)
            if len(tries) < 4:
                raise sa.exc.OperationalError("UPDATE", None, Exception("away"))
            plain(*args)

        monkeypatch.setattr(failed_lists, "keep", unreliable)
        fail(one_place, 3)
        assert recover(one_place).new == 3
        assert len(tries) == 4

    def test_what_redis_does_not_take_stays_and_is_taken_later(
        self, one_place: Installation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail(one_place)
        recovery = a_recovery(one_place)

        def refuse(_acceptor: Acceptor, _batch: Any, **_options: Any) -> Any:
            raise NotDurable("Redis did not take the event")

        with monkeypatch.context() as patched:
            patched.setattr(Acceptor, "accept", refuse)
            with pytest.raises(NotDurable):
                recovery.recover(["acme"])
        assert recovery.recover([]) == Outcome(replies=1, new=PAGE)
        assert recovery.recover(["acme"]).new == FAILED - PAGE
        all_is_done(one_place)

    def test_no_answer_is_told_and_asked_for_again_another_time(self, place: Installation) -> None:
        fail(place, 1)
        place.simulator.faults.set({"ban": "json"})
        (fault,) = recover(place).faults
        assert fault.startswith("acme: ") and "blocks this address" in fault
        assert "blocks this address" in asked(place)[0]["error"]
        place.simulator.faults.set({"ban": None})
        place.parts.connection.delete("bridge:budget")
        assert recover(place) == Outcome(replies=1, new=1)

    def test_two_at_a_time_double_nothing(self, place: Installation) -> None:
        """The verb beside the clock."""
        fail(place)
        with ThreadPoolExecutor(2) as pool:
            outcomes = list(
                pool.map(lambda recovery: recovery.recover(["acme"]), [a_recovery(place) for _ in range(2)])
            )
        recover(place)
        assert sum(outcome.new for outcome in outcomes) == FAILED
        all_is_done(place)

    def test_an_expired_token_costs_nothing(self, one_place: Installation) -> None:
        recover(one_place)
        fail(one_place, 1)
        one_place.simulator.expire_tokens()
        assert recover(one_place) == Outcome(replies=1, new=1)


def a_reply(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """DingTalk answers this once asked for the failed list."""
    plain = DingTalk._send

    def send(self: DingTalk, call: str, *args: Any) -> Any:
        response = plain(self, call, *args)
        return response._replace(body=body) if call == INTERNAL_CALL else response

    monkeypatch.setattr(DingTalk, "_send", send)


def minutes(number: float) -> int:
    return round(number * 60 * SECOND)


class TestWhenItIsDue:
    """`due_at`, in minutes since some beginning."""

    @pytest.mark.parametrize(
        ("last", "first_miss", "last_miss", "due"),
        [
            (0, None, None, 30),  # nothing happened
            (0, 10, 10, 15),  # a miss, or a start
            (0, 10, 10.7, 15.7),  # DingTalk's retries of it failed, too
            (0, 10, 19, 20),  # it does not end: no later than ten minutes after it began
            (20, 10, 24, 29),  # nor after the last call
            (20, 10, 29, 30),
            (16, 10, 10, 46),  # it was read since
            (13, 10, 10, 15),  # it was read too early for that
            (0, 28, 28, 30),  # the usual time comes first
            (None, None, None, 0),  # a new installation
            (None, 10, 10, 15),
            (None, 10, 19, 20),
        ],
    )
    def test_due(self, last: float | None, first_miss: float | None, last_miss: float | None, due: float) -> None:
        miss = None
        if first_miss is not None and last_miss is not None:
            miss = Miss(minutes(first_miss), minutes(last_miss))
        assert due_at(None if last is None else minutes(last), miss) == minutes(due)

    def test_a_day_of_misses_costs_no_more_than_six_calls_an_hour(self) -> None:
        last: int | None = None
        made = 0
        for minute in range(24 * 60):
            if due_at(last, Miss(0, minutes(minute))) <= minutes(minute):
                last = minutes(minute)
                made += 1
        assert made <= 24 * 6


class LaterClock(RedisClock):
    """Redis' clock some time from now, as the test says."""

    def __init__(self, connection: redis.Redis) -> None:
        super().__init__(connection)
        self.ahead = 0

    def now(self) -> Moment:
        moment = super().now()
        return Moment(moment.micros + self.ahead, moment.life)


@pytest.fixture
def timed(one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> LaterClock:
    """The clock of every recovery that is made."""
    clock = LaterClock(one_place.parts.connection)
    monkeypatch.setattr(compose, "RedisClock", lambda _connection: clock)
    return clock


class TestSchedule:
    def test_five_minutes_after_a_start_then_every_thirty(self, one_place: Installation, timed: LaterClock) -> None:
        recovery = a_recovery(one_place)
        made = []
        for minute in (0, 4.9, 5.1, 5.2, 20, 35, 35.2, 60, 65.3):
            timed.ahead = minutes(minute)
            recovery.tick()
            made.append(calls(one_place))
        assert made == [0, 0, 1, 1, 1, 1, 2, 2, 3]

    def test_five_minutes_after_a_miss(self, one_place: Installation, timed: LaterClock) -> None:
        connection = one_place.parts.connection
        recovery = a_recovery(one_place)
        recovery.tick()
        timed.ahead = minutes(6)
        recovery.tick()
        assert calls(one_place) == 1
        now = timed.now().micros
        connection.hset(MISSES_KEY, "acme", f"{now} {now}")
        for minute, made in ((10.9, 1), (11.1, 2), (12, 2), (40, 2), (41.2, 3)):
            timed.ahead = minutes(minute)
            recovery.tick()
            assert calls(one_place) == made

    def test_restarts_cost_no_calls(self, one_place: Installation, timed: LaterClock) -> None:
        a_recovery(one_place).tick()
        timed.ahead = minutes(6)
        for _ in range(20):
            a_recovery(one_place).tick()
        assert calls(one_place) == 1

    def test_a_clock_that_was_set_back_stops_nothing(self, one_place: Installation, timed: LaterClock) -> None:
        timed.ahead = minutes(600)
        recovery = a_recovery(one_place)
        recovery.tick()
        assert calls(one_place) == 1
        timed.ahead = minutes(6)
        recovery.tick()
        recovery.tick()
        assert calls(one_place) == 2
        timed.ahead = minutes(36.1)
        recovery.tick()
        assert calls(one_place) == 3

    def test_each_app_has_its_own_time(self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        apps = [
            {
                "name": name,
                "kind": "internal",
                "keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}],
                "owner_keys": [f"key-{name}"],
                "corp_id": f"ding-{name}",
                "app_key": f"key-{name}",
                "app_secret": "s3cret",
            }
            for name in ("one", "two")
        ]
        with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path, apps=apps) as place:
            timed = LaterClock(place.parts.connection)
            monkeypatch.setattr(compose, "RedisClock", lambda _connection: timed)
            recovery = a_recovery(place)
            recovery.tick()
            timed.ahead = minutes(6)
            recovery.tick()
            now = timed.now().micros
            place.parts.connection.hset(MISSES_KEY, "two", f"{now} {now}")
            timed.ahead = minutes(12)
            recovery.tick()
            by_app = place.simulator.calls.as_dict()["by_app"]
            assert [by_app[name][INTERNAL_CALL]["calls"] for name in ("one", "two")] == [1, 2]

    def test_calls_are_counted_in_the_log(self, one_place: Installation) -> None:
        fail(one_place)
        with capture_logs() as logs:
            recover(one_place)
        lines = [line for line in logs if line["event"] == "asking for failed callbacks"]
        assert [(line["app"], line["calls_in_24_h"]) for line in lines] == [("acme", 1), ("acme", 2), ("acme", 3)]

    def test_a_redis_that_refuses_stops_no_other_upkeep(
        self, one_place: Installation, timed: LaterClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_acceptor: Acceptor, _batch: Any, **_options: Any) -> Any:
            raise NotDurable("Redis did not take the event")

        fail(one_place, 3)
        recovery = a_recovery(one_place)
        timed.ahead = minutes(6)
        with monkeypatch.context() as patched:
            patched.setattr(Acceptor, "accept", refuse)
            recovery.tick()
            recovery.tick()
        assert accepted(one_place) == 0
        recovery.tick()
        assert (accepted(one_place), calls(one_place)) == (3, 1)


@contextmanager
def running(*clocks: Clock) -> Iterator[None]:
    stopping = threading.Event()
    threads = [threading.Thread(target=clock.run, args=(stopping,)) for clock in clocks]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join(20)
    assert not [thread for thread in threads if thread.is_alive()]


def test_of_two_clocks_one_reads_the_list(
    one_place: Installation, timed: LaterClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock_module, "ROUND_SECONDS", 0.02)
    parts = one_place.parts
    rounds: list[list[None]] = [[], []]
    tries = [0, 0]
    plain = parts.connection.register_script(clock_module._LEAD)

    def a_clock(number: int) -> Clock:
        recovery = a_recovery(one_place)

        def task() -> None:
            rounds[number].append(None)
            recovery.tick()

        dispatcher = Dispatcher(parts.store, parts.connection)
        clock = Clock(parts.connection, parts.store, dispatcher, RetentionConfig(), task)

        def lead(**given: Any) -> Any:
            tries[number] += 1
            return plain(**given)

        monkeypatch.setattr(clock, "_lead", lead)
        return clock

    timed.ahead = minutes(6)
    with running(a_clock(0), a_clock(1)):
        wait_until(lambda: min(tries) >= 5 and max(map(len, rounds)) >= 5, 30, "rounds of both clocks")
    assert min(map(len, rounds)) == 0
    assert calls(one_place) == 1


def test_what_is_done_is_forgotten_in_time_and_nothing_else(place: Installation) -> None:
    store = place.parts.store
    now = datetime.now(UTC)
    with store.writing() as connection:
        for days, taken in ((40, True), (40, False), (20, True)):
            number = failed_lists.begin(connection, "acme", now - timedelta(days=days))
            failed_lists.keep(connection, number, b"{}", now)
            if taken:
                failed_lists.finish(connection, number, now, None)
    dispatcher = Dispatcher(store, place.parts.connection)
    assert Clock(place.parts.connection, store, dispatcher, RetentionConfig(events=0)).prune() == 0
    assert Clock(place.parts.connection, store, dispatcher, RetentionConfig(events=30)).prune() == 1
    left = [(row["asked_at"] < now - timedelta(days=30), row["taken_at"] is None) for row in asked(place)]
    assert left == [(True, True), (False, False)]


def test_what_failed_while_the_receiver_was_down_is_read_after_its_start(
    one_place: Installation, timed: LaterClock
) -> None:
    recovery = a_recovery(one_place)
    timed.ahead = minutes(-10)
    recovery.recover(["acme"])
    timed.ahead = 0
    recovery.tick()
    one_place.parts.connection.delete(MISSES_KEY)  # the clock's own start
    one_place.simulator.faults.set({"retry_delays": []})
    made = one_place.simulator.change("acme", "user_modify_org")
    assert one_place.simulator.deliveries.wait_idle(20)
    misses = Misses(one_place.parts.connection)
    with one_place.receiving():
        wait_until(lambda: "acme" in misses.read(), 10, "the note of the start")
    timed.ahead = minutes(4)
    recovery.tick()
    assert calls(one_place) == 1
    timed.ahead = minutes(5.1)
    recovery.tick()
    assert calls(one_place) == 2
    assert accepted(one_place) == len(made)
