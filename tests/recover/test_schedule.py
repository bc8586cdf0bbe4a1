"""When the failed list is asked for: after misses, after a start, and else every half hour."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.accept import Acceptor
from bridge.config import RetentionConfig
from bridge.errors import NotDurable
from bridge.misses import MISSES_KEY, Miss, Misses
from ops import compose
from tests.installation import AES_KEY, Installation, installed
from tests.recover.failed_list import INTERNAL_CALL, LaterClock, a_recovery, accepted, calls, fail, minutes, recover
from tests.servers import wait_until
from workers import clock as clock_module
from workers.clock import Clock
from workers.jobs import Dispatcher
from workers.recover import due_at


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
