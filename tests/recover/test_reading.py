"""The failed list: whatever is killed when, nothing that DingTalk told is lost or doubled."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from bridge.accept import Acceptor
from bridge.config import RetentionConfig
from bridge.errors import NotDurable
from bridge.events import CONTACT_EVENTS
from tests.installation import CORP, Installation
from tests.recover.failed_list import (
    FAILED,
    INTERNAL_CALL,
    PAGE,
    SUITE_CALL,
    a_recovery,
    all_is_done,
    asked,
    calls,
    fail,
    fail_rows,
    recover,
)
from tests.truth import differences
from workers import recover as module
from workers.clock import Clock
from workers.copy import Copy
from workers.dingtalk import DingTalk
from workers.jobs import Dispatcher
from workers.recover import Outcome, Recovery
from workers.store import failed_lists, tables


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
