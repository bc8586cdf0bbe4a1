"""A suite's codes: from the temporary one by way of the permanent one to its activation; kills lose none."""

import json
import time
from typing import Any

import msgspec
import pytest

from bridge import messages
from bridge.accept import Acceptor
from ops import compose
from tests.suites.stage import (
    CORPS,
    SEALING_KEY,
    SUITE,
    Stage,
    fails_at_first,
    turns,
)
from workers.dingtalk import DingTalk
from workers.errors import BadRequest, Transient
from workers.sealing import Seal
from workers.store import comparisons, ledger, suites, tables
from workers.suiteapi import Suite


class TestATemporaryCode:
    def told(self, stage: Stage) -> dict[str, Any]:
        """That of a corp, for the failed list."""
        stage.tell("suite_ticket")
        payload: dict[str, Any] = stage.place.simulator.push("shop", "tmp_auth_code", False, CORPS[1])["payload"]
        return payload

    def listed(self, stage: Stage, **data: Any) -> None:
        item = {"call_back_tag": "tmp_auth_code", "event_time": time.time_ns() // 1_000_000} | data
        Acceptor(stage.place.parts.connection).accept(messages.parse_failed_item(item, "shop", CORPS[0]))

    @pytest.mark.parametrize("name", ["tmp_auth_code", "call_back_data"])
    def test_from_the_failed_list(self, one_stage: Stage, name: str) -> None:
        told = self.told(one_stage)
        self.listed(one_stage, **{name: {key: told[key] for key in ("AuthCode", "AuthCorpId")}})
        one_stage.settle()
        assert one_stage.granted(CORPS[1])["permanent_code"] is not None
        assert one_stage.differences(CORPS[1]) == []

    def test_an_event_that_carries_none(self, one_stage: Stage) -> None:
        self.told(one_stage)
        self.listed(one_stage, tmp_auth_code={"AuthCorpId": CORPS[1]})
        turns(one_stage)
        assert one_stage.place.rows(tables.events)[-1]["error"] == "it carries no temporary code"
        assert one_stage.place.rows(tables.authorizations) == []

    def test_one_that_names_no_corp_is_not_lost_with_what_follows(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As in 2016. The second time its code is none any more, and the app's own corp did not give it."""
        told = self.told(one_stage)
        asked = fails_at_first(monkeypatch, "authorization", Transient("-1", "busy", "/service/get_auth_info"))
        del told["AuthCorpId"]
        (event,) = messages.parse(json.dumps(told).encode(), "shop", CORPS[0]).events
        Acceptor(one_stage.place.parts.connection).accept([event])
        one_stage.settle()
        assert set(asked) == {CORPS[1]}
        assert (one_stage.granted(CORPS[1])["status"], one_stage.app.corps[CORPS[1]].close) == ("active", 1)
        one_stage.settle()
        assert one_stage.differences(CORPS[1]) == []


class TestActivation:
    """What stands against it hinders no read; `doctor` names the corps that wait for it."""

    def waits(self, stage: Stage) -> None:
        stage.settle()
        assert stage.statuses() == {"applied"}
        assert (stage.granted()["status"], [agent["close"] for agent in stage.granted()["agents"]]) == ("active", [2])
        assert stage.differences() == []

    def test_a_code_that_dingtalk_refuses(self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise BadRequest("40084", "no such code", "/service/activate_suite")

        monkeypatch.setattr(Suite, "activate", refuse)
        one_stage.tell("suite_ticket")
        one_stage.tell("tmp_auth_code")
        self.waits(one_stage)

    def test_a_code_that_was_sealed_with_another_key(self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Suite, "activate", lambda *_: None)
        monkeypatch.setattr(Seal, "open", Seal("another" * 5).open)
        one_stage.tell("suite_ticket")
        one_stage.tell("tmp_auth_code")
        self.waits(one_stage)

    def test_what_may_pass_is_tried_again(self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        fails_at_first(monkeypatch, "activate", Transient("-1", "busy", "/service/activate_suite"))
        one_stage.tell("suite_ticket")
        one_stage.tell("tmp_auth_code")
        turns(one_stage)
        assert [row["type"] for row in one_stage.place.rows(tables.events)] == ["suite_ticket"]
        one_stage.hurry()
        turns(one_stage)
        assert (one_stage.statuses(), one_stage.app.corps[CORPS[0]].close) == ({"applied"}, 1)


class Killed(BaseException):
    """As kill -9: nothing of ours may catch it."""


class TestKills:
    @pytest.mark.parametrize(
        ("owner", "name"),
        [
            (Suite, "permanent_code"),
            (suites, "write"),
            (Suite, "authorization"),
            (Suite, "agent_state"),
            (Suite, "activate"),
            (DingTalk, "scopes"),
            (comparisons, "make_due"),
            (ledger, "record"),
        ],
    )
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_no_authorisation_is_lost(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: str
    ) -> None:
        one_stage.tell("suite_ticket")
        one_stage.place.work_off()
        one_stage.tell("tmp_auth_code")
        call = getattr(owner, name)

        def die(*args: Any, **kwargs: Any) -> None:
            if when == "after":
                call(*args, **kwargs)
            raise Killed

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(owner, name, die)
            one_stage.place.worker.turn()
        one_stage.settle()
        assert (one_stage.granted()["status"], one_stage.statuses()) == ("active", {"applied"})
        assert one_stage.differences() == []
        lost = name in ("write", "make_due") or (name, when) == ("permanent_code", "after")
        # A reply that was lost with its process cannot be had again; the corp is read all the same.
        assert (one_stage.granted()["permanent_code"] is None) == (one_stage.app.corps[CORPS[0]].close == 2) == lost


class TestTheCode:
    def test_it_lies_sealed_and_nowhere_else(self, stage: Stage) -> None:
        stage.begin()
        # A reply of the failed list is stored as it came, but for this.
        told = stage.place.simulator.push("shop", "tmp_auth_code", True)["payload"]
        stage.app.give_up(told["EventType"], CORPS[0], time.time_ns() // 1_000_000, told)
        assert (
            compose.recovery(stage.place.config, stage.place.parts.connection, stage.place.parts.store)
            .recover(["shop"])
            .new
        )
        stage.settle()
        code = stage.app.corps[CORPS[0]].permanent_code
        assert code in json.dumps(told)
        assert any(b"permanent_code" in row["body"] for row in stage.place.rows(tables.failed_lists))
        assert not any(code.encode() in row["body"] for row in stage.place.rows(tables.failed_lists))
        granted = stage.granted()
        if not stage.rows:
            assert Seal(SEALING_KEY).open(granted["permanent_code"], SUITE, CORPS[0]) == code
        for table in tables.metadata.sorted_tables:
            assert code not in msgspec.json.encode(stage.place.rows(table), enc_hook=str).decode(), table.name
        connection = stage.place.parts.connection
        for key in connection.scan_iter():
            assert code.encode() not in connection.dump(key), key  # type: ignore[operator]

    def test_another_key_opens_nothing(self, one_stage: Stage) -> None:
        one_stage.begin()
        sealed = one_stage.granted()["permanent_code"]
        for key, suite, corp in (("another" * 5, SUITE, CORPS[0]), (SEALING_KEY, SUITE, CORPS[1])):
            with pytest.raises(Exception, match="encryption_key is not the one"):
                Seal(key).open(sealed, suite, corp)
