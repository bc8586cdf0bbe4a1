"""When corps are compared: nightly, spread, once, and when Redis turns out to be another."""

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from bridge.accept import Acceptor
from bridge.config import ClockConfig, HealConfig
from tests.installation import CORP, Installation, installed
from tests.servers import redis_process, wait_until
from tests.truth import differences
from tests.workers.helpers import Desk, an_event
from tests.workers.test_reconcile import copy, somebody, tenant, the_client
from workers.errors import ApiError, Misconfigured, Transient
from workers.lives import Lives
from workers.moment import SECOND, Moment
from workers.nightly import (
    FIRST_RETRY_SECONDS,
    LEASE_SECONDS,
    RETRY_SECONDS,
    SPREAD_SECONDS,
    Nightly,
    due,
    last_night,
)
from workers.readers import Readers
from workers.store import comparisons, tables
from workers.store.comparisons import State

#: 03:10 in Shanghai is 19:10 UTC of the day before. It lies in the past: what is due then is due by Redis' clock, too.
WHEN = ClockConfig()
NIGHT = datetime(2026, 3, 1, 19, 10, tzinfo=UTC)


def micros(moment: datetime) -> int:
    return round(moment.timestamp() * SECOND)


def a_state(corp_id: str = "a", **given: Any) -> State:
    fields: dict[str, Any] = dict.fromkeys(State._fields) | {
        "corp_id": corp_id, "known_at": NIGHT - timedelta(days=9), "whole": False, "taken_until": 0,
    }  # fmt: skip
    return State(**fields | given)


@pytest.mark.parametrize(
    ("now", "zone", "night"),
    [
        (NIGHT, "Asia/Shanghai", NIGHT),
        (NIGHT - timedelta(seconds=1), "Asia/Shanghai", NIGHT - timedelta(days=1)),
        (NIGHT + timedelta(hours=23), "Asia/Shanghai", NIGHT),
        (datetime(2026, 3, 1, 3, 9, tzinfo=UTC), "UTC", datetime(2026, 2, 28, 3, 10, tzinfo=UTC)),
        # That night has no 02:30 in Berlin.
        (datetime(2026, 3, 29, 12, tzinfo=UTC), "Europe/Berlin", datetime(2026, 3, 29, 1, 10, tzinfo=UTC)),
    ],
)
def test_when_a_night_begins(now: datetime, zone: str, night: datetime) -> None:
    assert last_night(now, ClockConfig(timezone=zone)) == night


class TestDue:
    def due(self, now: datetime, *known: State) -> list[str]:
        return due(known, micros(now), WHEN)

    def test_once_in_a_night(self) -> None:
        before = a_state(begun_at=NIGHT - timedelta(days=1))
        assert self.due(NIGHT - timedelta(seconds=1), before) == []
        assert self.due(NIGHT, before) == ["a"]
        assert self.due(NIGHT + timedelta(hours=1), a_state(begun_at=NIGHT + timedelta(seconds=1))) == []
        assert self.due(NIGHT + timedelta(days=1), a_state(begun_at=NIGHT + timedelta(seconds=1))) == ["a"]

    def test_a_missed_night_as_soon_as_may_be(self) -> None:
        assert self.due(NIGHT + timedelta(hours=9), a_state(begun_at=NIGHT - timedelta(days=3))) == ["a"]

    def test_no_night_was_missed_before_it_was_known(self) -> None:
        known = a_state(known_at=NIGHT + timedelta(hours=2))
        assert self.due(NIGHT + timedelta(hours=3), known) == []
        assert self.due(NIGHT + timedelta(days=1), known) == ["a"]

    def test_several_are_spread(self) -> None:
        known = [a_state(name) for name in "badc"]
        step = timedelta(seconds=SPREAD_SECONDS / 4)
        assert [self.due(NIGHT + number * step, *known) for number in range(4)] == [
            ["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"],
        ]  # fmt: skip

    def test_out_of_turn(self) -> None:
        noon = NIGHT + timedelta(hours=9)
        known = a_state(begun_at=NIGHT, due_at=micros(noon))
        assert self.due(noon - timedelta(seconds=1), known) == []
        assert self.due(noon, known) == ["a"]

    def test_not_while_a_clock_is_at_it(self) -> None:
        assert self.due(NIGHT, a_state(taken_until=micros(NIGHT) + 1)) == []
        assert self.due(NIGHT, a_state(taken_until=micros(NIGHT))) == ["a"]


class Hand:
    """A clock that is set by hand."""

    def __init__(self, now: datetime, life: str = "1") -> None:
        self.time = now
        self.life = life

    def now(self) -> Moment:
        return Moment(micros(self.time), self.life)


@pytest.fixture
def place(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, datastore_url, tmp_path, users=30) as installation:
        copy(installation)
        with installation.parts.store.writing() as connection:
            connection.execute(tables.comparisons.update().values(known_at=NIGHT - timedelta(days=1)))
        yield installation


def a_nightly(
    place: Installation,
    hand: Any,
    client: Any = None,
    limits: HealConfig | None = None,
    renew: Callable[[str], None] = lambda _corp: None,
) -> Nightly:
    reader = client or the_client(place)
    readers = Readers(place.config, lambda _app, _corp: reader, 1, lambda _corps: {})
    store, bounds = place.parts.store, limits or HealConfig()
    return Nightly(store, hand, readers, renew, lambda: (), [CORP], WHEN, bounds, 1)


def test_each_user_is_read_whole_within_a_week(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """No list tells of a manager: only a read of each user finds it."""
    monkeypatch.setattr("workers.comparison.LEAST_PART", 0)
    hand = Hand(NIGHT - timedelta(hours=1))
    nightly = a_nightly(place, hand)
    assert nightly.run_due() == []  # it was copied after the night before
    for user in list(tenant(place).users.rows.values()):
        tenant(place).put_user(replace(user, manager_userid="another"))
    left = []
    for night in range(7):
        hand.time = NIGHT + timedelta(days=night)
        (report,) = nightly.run_due()
        assert report.outcome == "done"
        assert nightly.run_due() == []
        place.work_off()
        left.append(len(differences(place)))
    assert left[-1] == 0
    assert left == sorted(left, reverse=True)
    assert left[0] > 0


def test_what_stopped_at_night_is_remembered(place: Installation) -> None:
    for user in list(tenant(place).users.rows.values())[5:]:
        tenant(place).drop_user(user.userid)
    hand = Hand(NIGHT - timedelta(hours=1))
    nightly = a_nightly(place, hand)
    nightly.look()
    hand.time = NIGHT
    (report,) = nightly.run_due()
    assert "25 of 30 users" in " ".join(report.stopped)
    (row,) = place.rows(tables.comparisons)
    assert (row["outcome"], row["taken_until"], row["begun_at"]) == ("stopped", 0, NIGHT)
    assert row["report"]["stopped"] == report.stopped
    assert {row["deleted_at"] for row in place.rows(tables.users)} == {None}


def test_one_that_cannot_begin_is_tried_again_later(place: Installation) -> None:
    class Refused:
        def scopes(self, **_given: bool) -> Any:
            raise Misconfigured("60011", "", "/auth/scopes")

    hand = Hand(NIGHT - timedelta(hours=1))
    nightly = a_nightly(place, hand, Refused())
    nightly.look()
    hand.time = NIGHT
    nightly.run_due()
    (row,) = place.rows(tables.comparisons)
    assert row["outcome"] == "failed"
    assert "60011" in row["report"]["faults"][0]
    assert nightly.run_due() == []
    hand.time = NIGHT + timedelta(seconds=RETRY_SECONDS)
    (report,) = a_nightly(place, hand).run_due()
    assert report.outcome == "done"
    assert a_nightly(place, hand).run_due() == []


@pytest.mark.parametrize(
    ("copied", "error", "seconds"),
    [
        (False, Transient("-1"), FIRST_RETRY_SECONDS),
        (False, Misconfigured("60011"), RETRY_SECONDS),
        (True, Transient("-1"), RETRY_SECONDS),
    ],
)
def test_a_first_one_is_tried_again_soon_where_it_may_pass(
    place: Installation, copied: bool, error: ApiError, seconds: int
) -> None:
    if not copied:
        with place.parts.store.writing() as connection:
            connection.execute(tables.comparisons.update().values(copied_at=None))

    def refuse(_corp: str) -> None:
        raise error

    a_nightly(place, Hand(NIGHT), renew=refuse).run_due()
    (row,) = place.rows(tables.comparisons)
    assert (row["outcome"], row["due_at"]) == ("failed", micros(NIGHT) + seconds * SECOND)


def test_one_corp_never_stops_the_others(place: Installation) -> None:
    def break_off(_corp: str) -> None:
        raise ValueError("a fault of ours")

    (report,) = a_nightly(place, Hand(NIGHT), renew=break_off).run_due()
    (row,) = place.rows(tables.comparisons)
    assert (row["outcome"], row["taken_until"]) == ("failed", 0)
    assert report.faults == row["report"]["faults"] == ["ValueError"]


def test_a_redis_that_is_away_is_waited_for(place: Installation) -> None:
    def lose(_corp: str) -> None:
        raise redis.ConnectionError

    with pytest.raises(redis.ConnectionError):
        a_nightly(place, Hand(NIGHT), renew=lose).run_due()
    assert place.rows(tables.comparisons)[0]["outcome"] is None


def test_a_clock_that_died_at_it_leaves_it_to_another(place: Installation) -> None:
    hand = Hand(NIGHT - timedelta(hours=1))
    nightly = a_nightly(place, hand)
    nightly.look()
    hand.time = NIGHT
    with place.parts.store.writing() as connection:
        until = micros(NIGHT) + LEASE_SECONDS * SECOND
        assert comparisons.claim(connection, CORP, micros(NIGHT), until)
        assert not comparisons.claim(connection, CORP, micros(NIGHT), until)
    assert nightly.run_due() == []
    hand.time += timedelta(seconds=LEASE_SECONDS)
    assert [report.outcome for report in nightly.run_due()] == ["done"]


def test_it_works_beside_the_clocks_round_and_can_be_left(place: Installation) -> None:
    hand = Hand(NIGHT - timedelta(hours=1))
    entered, go_on = threading.Event(), threading.Event()

    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(the_client(place), name)

        def branches(self, dept_id: int, **given: bool) -> Any:
            entered.set()
            assert go_on.wait(60)
            return the_client(place).branches(dept_id, **given)

    nightly = a_nightly(place, hand, Slow())
    nightly.tend()
    assert not entered.is_set()
    hand.time = NIGHT
    nightly.tend()
    assert entered.wait(60)
    nightly.tend()  # the round goes on meanwhile
    closing = threading.Thread(target=nightly.close)
    closing.start()
    go_on.set()
    closing.join(60)
    assert not closing.is_alive()
    (row,) = place.rows(tables.comparisons)
    assert (row["begun_at"], row["taken_until"]) == (None, 0)
    again = a_nightly(place, hand)
    again.tend()
    wait_until(lambda: place.rows(tables.comparisons)[0]["outcome"] == "done", 60, "the comparison")
    again.close()


class TestLives:
    def test_another_life_makes_every_living_corp_due_once(self, desk: Desk) -> None:
        with desk.store.writing() as connection:
            connection.execute(
                tables.corps.insert(),
                [{"corp_id": "a", "status": "active"}, {"corp_id": "b", "status": "dissolved"}],
            )
        at = micros(NIGHT)
        lives, others = Lives(desk.store, 5), Lives(desk.store, 5)
        lives.see(Moment(at, "1"))
        others.see(Moment(at, "1"))
        assert desk.rows(tables.comparisons) == []
        lives.see(Moment(at, "2"))
        row = desk.row(tables.comparisons)
        assert (row["corp_id"], row["due_at"], row["whole"]) == ("a", at + 5 * SECOND, True)
        assert desk.row(tables.lives)["run_id"] == "2"
        with desk.store.writing() as connection:
            comparisons.remember(
                connection, "a", at + 5 * SECOND, at + 6 * SECOND, "done", None, {}, whole=True, allow_scope=False
            )
        others.see(Moment(at + 7 * SECOND, "2"))
        row = desk.row(tables.comparisons)
        assert (row["due_at"], row["whole"]) == (None, False)

    @pytest.mark.parametrize(("came", "stays"), [(None, 90), (10, 90), (15, 15), (60, 60), (100, 90)])
    def test_what_comes_due_while_one_fails_stays_due(self, desk: Desk, came: int | None, stays: int) -> None:
        with desk.store.writing() as connection:
            comparisons.know(connection, ["a"], 1)
            if came is not None:
                comparisons.make_due(connection, "a", 1, came, whole=True, allow_scope=False)
            comparisons.fail(connection, "a", 14, 90, {})
        row = desk.row(tables.comparisons)
        assert (row["due_at"], row["whole"]) == (stays, came is not None)

    def test_what_comes_due_while_one_is_at_it_stays_due(self, desk: Desk) -> None:
        with desk.store.writing() as connection:
            connection.execute(tables.corps.insert(), [{"corp_id": "a"}])
        lives = Lives(desk.store, 5)
        lives.see(Moment(10, "1"))
        lives.see(Moment(20, "2"))
        with desk.store.writing() as connection:
            comparisons.remember(connection, "a", 15, 30, "done", None, {}, whole=True, allow_scope=False)
        row = desk.row(tables.comparisons)
        assert (row["due_at"], row["whole"]) == (20 + 5 * SECOND, True)

    @pytest.mark.parametrize(("whole", "owed"), [(False, True), (True, False)])
    def test_a_whole_one_that_is_owed_is_not_paid_by_lists(self, desk: Desk, whole: bool, owed: bool) -> None:
        """As where an operator's `heal` comes between."""
        with desk.store.writing() as connection:
            connection.execute(tables.corps.insert(), [{"corp_id": "a"}])
            comparisons.make_due(connection, "a", 10, 20, whole=True, allow_scope=False)
            comparisons.remember(connection, "a", 25, 30, "done", None, {}, whole=whole, allow_scope=False)
        row = desk.row(tables.comparisons)
        assert (row["due_at"], row["whole"]) == ((20, True) if owed else (None, False))


def test_what_a_redis_lost_is_found_after_its_clock_has_compared(
    datastore_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.comparison.LEAST_PART", 0)
    with redis_process() as server, installed(server.url, datastore_url, tmp_path, users=30) as place:
        copy(place)
        clock = place.parts.clock
        nightly = a_nightly(place, clock)
        nightly.tend()
        for number in range(20):
            user = list(tenant(place).users.rows.values())[number]
            tenant(place).put_user(replace(user, manager_userid="another", title=f"title {number}"))
            Acceptor(place.parts.connection).accept([an_event(users=[user.userid])])
        server.kill()
        shutil.rmtree(server.path.parent / "appendonlydir")
        server.start()
        assert place.parts.connection.dbsize() == 0
        user = somebody(place)
        Acceptor(place.parts.connection).accept([an_event(users=[user.userid])])
        place.work_off()
        assert len(differences(place)) >= 19
        # The worker saw it; the clock has nothing to do until answers have settled.
        (row,) = place.rows(tables.comparisons)
        assert row["whole"]
        assert [row["run_id"] for row in place.rows(tables.lives)] == [clock.now().life]
        wait_until(lambda: clock.now().micros >= row["due_at"], 30, "the comparison to be due")
        assert [report.outcome for report in nightly.run_due()] == ["done"]
        place.work_off()
        assert differences(place) == []
        assert nightly.run_due() == []
