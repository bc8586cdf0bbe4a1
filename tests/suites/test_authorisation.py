"""Corps that authorise a suite: from the first word of it to its end, and back."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from bridge import messages
from bridge.config import AppConfig, Config
from bridge.events import CONTACT_EVENTS, Entity
from tests.installation import installed, settings
from tests.suites.stage import (
    CORPS,
    SEALING_KEY,
    SUITE,
    Stage,
    a_millisecond_passes,
    a_stage,
    a_suite,
    fails_at_first,
    turns,
)
from workers.dingtalk import DingTalk
from workers.errors import NotAuthorized, QuotaSpent, Transient
from workers.moment import SECOND
from workers.registry import Registry
from workers.store import comparisons, reads, suites, tables
from workers.store.reads import Due
from workers.suiteapi import Suite, SuiteCorp
from workers.suites import Suites


class TestTheLifeOfAnAuthorisation:
    def test_three_corps_from_their_authorisation_on(self, stage: Stage) -> None:
        stage.begin(*CORPS)
        for corp in CORPS:
            assert stage.differences(corp) == []
            granted = stage.granted(corp)
            assert (granted["status"], granted["scope"]["departments"]) == ("active", [1])
            assert [agent["close"] for agent in granted["agents"]] == [1]
            assert stage.app.corps[corp].close == 1
        for event in sorted(CONTACT_EVENTS.keys() - {"org_remove"}):
            for corp in CORPS:
                stage.change(event, corp)
        stage.place.work_off()
        for corp in CORPS:
            assert stage.differences(corp) == []
        assert stage.statuses() <= {"applied", "folded"}

    def test_a_first_copy_is_quiet_and_what_comes_after_is_not(self, stage: Stage, registry: Registry) -> None:
        registry.on_change("user", "corp")(lambda change, directory: None)
        stage.begin()
        assert stage.place.rows(tables.outbox) == []
        stage.change("user_add_org")
        stage.place.work_off()
        assert [row["function"] for row in stage.place.rows(tables.outbox)] != []

    def test_a_withdrawal_stops_the_corp_at_once(self, stage: Stage) -> None:
        stage.begin(*CORPS[:2])
        before = stage.place.rows(tables.users)
        stage.change("user_modify_org")
        stage.tell("suite_relieve")
        stage.change("user_modify_org", CORPS[1])
        stage.settle()
        assert stage.row(tables.corps, corp_id=CORPS[0])["status"] == "revoked"
        assert stage.row(tables.corps, corp_id=CORPS[0])["deleted_at"] is None
        assert stage.granted()["status"] == "revoked"
        assert stage.granted()["permanent_code"] is None
        assert stage.place.parts.connection.exists(f"bridge:token:shop:{SUITE}:{CORPS[0]}") == 0
        kept = [row for row in stage.place.rows(tables.users) if row["corp_id"] == CORPS[0]]
        assert [row["userid"] for row in kept] == [row["userid"] for row in before if row["corp_id"] == CORPS[0]]
        assert {row["deleted_at"] for row in kept} == {None}
        assert stage.differences(CORPS[1]) == []
        # What a comparison that was under way still noted is dropped.
        with stage.place.parts.store.writing() as connection:
            reads.schedule(connection, [Due(Entity(CORPS[0], "user", kept[0]["userid"]), 0, "heal")])
        stage.place.work_off()
        # Whatever comes afterwards is ignored, and says so.
        calls = stage.place.simulator.calls.as_dict()["total"]
        late = stage.app.corps[CORPS[0]]
        late.revoked = False
        stage.change("user_modify_org")
        late.revoked = True
        stage.place.work_off()
        assert stage.place.simulator.calls.as_dict()["total"] == calls
        assert stage.place.rows(tables.events)[-1]["error"] == "the corp has withdrawn its authorisation"

    def test_a_corp_that_comes_back_is_copied_again(self, stage: Stage) -> None:
        stage.begin()
        stage.tell("suite_relieve")
        stage.settle()
        stage.app.corps[CORPS[0]].revoked = False
        stage.place.simulator.change("shop", "user_add_org", deliver=False)
        stage.app.corps[CORPS[0]].revoked = True
        stage.tell("tmp_auth_code")
        stage.settle()
        assert (stage.granted()["status"], stage.row(tables.corps, corp_id=CORPS[0])["status"]) == ("active", "active")
        assert stage.differences() == []

    def test_an_answer_that_is_older_than_the_authorisation_takes_nothing_away(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = fails_at_first(
            monkeypatch, "authorization", NotAuthorized("33001", "not yet", "/service/get_auth_info")
        )
        monkeypatch.setattr(one_stage.place.parts.suites, "_settle", 3600 * SECOND)
        one_stage.begin()
        assert len(asked) > 1
        assert one_stage.granted()["status"] == "active"
        assert one_stage.granted()["permanent_code"] is not None
        assert one_stage.differences() == []

    @pytest.mark.parametrize("event", ["org_micro_app_scope_update", None])
    def test_nor_does_one_that_another_event_asks_for(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch, event: str | None
    ) -> None:
        """The code was exchanged just now; what else is told of the corp, or its comparison, asks too soon."""
        one_stage.begin()
        code = one_stage.granted()["permanent_code"]
        suites_ = one_stage.place.parts.suites
        monkeypatch.setattr(suites_, "_settle", 3600 * SECOND)

        def lag(suite: Suite, corp_id: str) -> Any:
            raise NotAuthorized("33001", "not yet", "/service/get_auth_info")

        with monkeypatch.context() as lagging:
            lagging.setattr(Suite, "authorization", lag)
            if event is None:
                with pytest.raises(NotAuthorized):
                    suites_.renew("shop", CORPS[0], lambda _tx, _done: None)
            else:
                one_stage.tell(event)
                turns(one_stage)
        assert (one_stage.granted()["status"], one_stage.granted()["permanent_code"]) == ("active", code)
        one_stage.hurry()
        one_stage.place.work_off()
        assert one_stage.statuses() == {"applied"}

    def test_what_an_answer_takes_away_bars_no_event(self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        """It does not say since when: the grant that comes after it may be older than the event that asked."""
        one_stage.begin()
        one_stage.long_ago()
        granted = one_stage.place.simulator.push("shop", "change_auth", False)["payload"]
        a_millisecond_passes()
        with monkeypatch.context() as lagging:
            lagging.setattr(one_stage.app.corps[CORPS[0]], "revoked", True)
            one_stage.tell("org_micro_app_scope_update")
            turns(one_stage)
        assert one_stage.granted()["status"] == "revoked"
        one_stage.accept(granted)
        turns(one_stage)
        assert one_stage.granted()["status"] == "active"

    def test_a_withdrawal_that_is_fed_in_again_after_a_return_that_nobody_told_of(self, one_stage: Stage) -> None:
        one_stage.begin()
        told = one_stage.tell("suite_relieve")
        one_stage.settle()
        one_stage.app.corps[CORPS[0]].revoked = False
        one_stage.place.parts.suites.renew("shop", CORPS[0], lambda _tx, _done: None)
        assert one_stage.granted()["status"] == "active"
        (again,) = messages.parse(json.dumps(told).encode(), "shop", None, "replay").events
        done = one_stage.place.parts.suites.perform(again, one_stage.place.parts.clock.now(), lambda _tx, done: done)
        assert done.ignored == "the corp has authorised the suite anew since"
        assert one_stage.granted()["status"] == "active"

    def test_an_app_whose_switching_on_shows_late(self, one_stage: Stage) -> None:
        """Asked once more when it has settled, and then no more."""
        one_stage.begin()
        one_stage.tell("org_micro_app_stop")
        one_stage.settle()
        corp = one_stage.app.corps[CORPS[0]]
        for late in (True, False):
            one_stage.tell("org_micro_app_restore")
            corp.close = 0
            turns(one_stage)
            assert one_stage.granted()["status"] == "stopped"
            assert one_stage.row(tables.comparisons)["due_at"] is not None
            corp.close = 0 if late else 1
            one_stage.settle()
            assert one_stage.granted()["status"] == ("stopped" if late else "active")
            assert (one_stage.row(tables.comparisons)["due_at"] is None) == late
        one_stage.settle()
        assert one_stage.differences() == []

    @pytest.mark.parametrize("event", ["suite_relieve", "org_micro_app_stop"])
    def test_a_return_that_nobody_told_of_is_found_at_night(self, one_stage: Stage, event: str) -> None:
        one_stage.begin()
        one_stage.tell(event)
        one_stage.settle()
        assert one_stage.granted()["status"] != "active"
        calls = one_stage.place.simulator.calls.as_dict()["total"]
        one_stage.settle()
        assert one_stage.place.simulator.calls.as_dict()["total"] == calls
        corp = one_stage.app.corps[CORPS[0]]
        corp.revoked, corp.close = False, 1
        one_stage.place.simulator.change("shop", "user_add_org", deliver=False)
        for _ in range(2):  # once to learn of it, once what then comes due
            with one_stage.place.parts.store.writing() as connection:
                connection.execute(sa.update(tables.comparisons).values(begun_at=comparisons.at(0)))
            one_stage.settle()
        assert one_stage.granted()["status"] == "active"
        assert one_stage.differences() == []

    def test_a_code_that_comes_after_a_newer_switching_off_is_kept(self, one_stage: Stage) -> None:
        """It is exchanged once; who switches the app on again may need what it gave."""
        one_stage.tell("suite_ticket")
        code = one_stage.place.simulator.push("shop", "tmp_auth_code", False)["payload"]
        a_millisecond_passes()
        one_stage.tell("org_micro_app_stop")
        turns(one_stage)
        assert (one_stage.granted()["status"], one_stage.granted()["permanent_code"]) == ("stopped", None)
        one_stage.accept(code)
        turns(one_stage)
        assert one_stage.granted()["status"] == "stopped"
        assert one_stage.granted()["permanent_code"] is not None

    def test_a_removal_that_nobody_told_of_is_found(self, one_stage: Stage) -> None:
        one_stage.begin()
        one_stage.app.corps[CORPS[0]].removed = True
        one_stage.place.parts.suites.renew_all(CORPS[0], lambda _tx, _done: None)
        assert one_stage.granted()["status"] == "stopped"

    @pytest.mark.parametrize("event", ["tmp_auth_code", "change_auth"])
    def test_the_micro_apps_of_a_former_life_do_not_count(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch, event: str
    ) -> None:
        """A suite without any is not switched off for having had some before a withdrawal."""
        one_stage.begin()
        one_stage.tell("suite_relieve")
        turns(one_stage)
        assert one_stage.granted()["status"] == "revoked"
        plain = Suite.authorization
        monkeypatch.setattr(
            Suite, "authorization", lambda suite, corp: msgspec.structs.replace(plain(suite, corp), agents=())
        )
        one_stage.app.corps[CORPS[0]].revoked = False
        one_stage.tell(event)
        turns(one_stage)
        assert one_stage.statuses() == {"applied"}
        assert (one_stage.granted()["status"], one_stage.granted()["agents"]) == ("active", [])

    def test_of_a_corp_that_nobody_reads_every_suite_is_asked(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one_stage.begin()
        one_stage.tell("suite_relieve")
        turns(one_stage)
        with one_stage.place.parts.store.writing() as connection:
            suites.write(connection, "another", CORPS[0], comparisons.at(0), status="revoked", told_at=0)
        asked: list[str] = []

        def refuse(_suites: object, app: str, *_: object) -> None:
            asked.append(app)
            raise Transient("no-ticket", "none has come", "/service/get_auth_info")

        monkeypatch.setattr(Suites, "renew", refuse)
        monkeypatch.setattr(one_stage.place.parts.suites, "_keys", {"other": "another", "shop": SUITE})
        with pytest.raises(Transient):
            one_stage.place.parts.suites.renew_all(CORPS[0], lambda _tx, _done: None)
        assert asked == ["other", "shop"]

    @pytest.mark.parametrize("alone", [True, False])
    def test_what_stands_against_a_suite_hinders_no_other_reader(
        self, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool
    ) -> None:
        with a_stage(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, False) as stage:
            stage.begin()
            suites_ = stage.place.parts.suites
            if not alone:
                monkeypatch.setattr(Config, "reader", lambda *_: AppConfig.model_validate(settings()["apps"][0]))

            def refuse(*_: object) -> None:
                raise Transient("no-ticket", "none has come", "/service/get_auth_info")

            monkeypatch.setattr(Suite, "authorization", refuse)
            with pytest.raises(Transient) if alone else nullcontext():
                suites_.renew_all(CORPS[0], lambda _tx, _done: None)

    @pytest.mark.parametrize("alone", [True, False])
    def test_only_who_reads_the_corp_may_lose_scope_unasked(
        self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch, alone: bool
    ) -> None:
        one_stage.begin()
        assert one_stage.row(tables.comparisons, corp_id=CORPS[0])["allow_scope"] is False
        if not alone:
            monkeypatch.setattr(Config, "reader", lambda *_: AppConfig.model_validate(settings()["apps"][0]))
        one_stage.tell("change_auth")
        turns(one_stage)
        assert one_stage.row(tables.comparisons, corp_id=CORPS[0])["allow_scope"] is alone

    def test_an_older_withdrawal_takes_nothing_away(self, stage: Stage) -> None:
        stage.begin()
        relieve = stage.place.simulator.push("shop", "suite_relieve", stage.rows)["payload"]
        a_millisecond_passes()
        stage.tell("tmp_auth_code")
        stage.accept(relieve)
        stage.settle()
        assert stage.granted()["status"] == "active"
        assert stage.differences() == []
        told = [row for row in stage.place.rows(tables.events) if row["type"].endswith("relieve")]
        assert [row["error"] for row in told] == ["the corp has authorised the suite anew since"]

    def test_a_withdrawal_while_it_is_asked_for_stands(self, one_stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another worker applies it between the question and its answer's commit."""
        one_stage.begin()
        parts = one_stage.place.parts
        scopes = DingTalk.scopes
        a_millisecond_passes()
        relieve = one_stage.place.simulator.push("shop", "suite_relieve", False)["payload"]
        one_stage.app.corps[CORPS[0]].revoked = False
        (event,) = messages.parse(json.dumps(relieve).encode(), "shop", None).events

        def overtake(client: DingTalk, **options: Any) -> Any:
            answer = scopes(client, **options)
            if not one_stage.app.corps[CORPS[0]].revoked:
                one_stage.app.corps[CORPS[0]].revoked = True
                parts.suites.perform(event, parts.clock.now(), lambda _tx, _done: None)
            return answer

        monkeypatch.setattr(DingTalk, "scopes", overtake)
        parts.suites.renew("shop", CORPS[0], lambda _tx, _done: None)
        assert one_stage.granted()["status"] == "revoked"

    def test_with_faults_and_everything_at_once(self, stage: Stage) -> None:
        """Callbacks doubled and overtaking one another, answers that lag and fail; and yet all ends true."""
        stage.begin(*CORPS)
        place = stage.place
        place.simulator.faults.set(
            {"double_rate": 0.3, "shuffle_ms": 300, "error_rate": 0.1, "retry_delays": [0.1, 0.2]}
        )
        with place.receiving():
            for number in range(20):
                for corp in CORPS:
                    place.simulator.change("shop", corp=corp)
                if number % 5 == 0:
                    for event in ("suite_ticket", "change_auth", "org_micro_app_stop", "org_micro_app_restore"):
                        place.simulator.push("shop", event, stage.rows, CORPS[number % 3])
                if number == 10:
                    place.simulator.push("shop", "suite_relieve", stage.rows, CORPS[2])
                place.worker.turn()
            a_millisecond_passes()
            place.simulator.push("shop", "tmp_auth_code", stage.rows, CORPS[2])
            assert place.simulator.deliveries.wait_idle(60)
        place.simulator.faults.set({"error_rate": 0.0})
        for _ in range(2):
            stage.hurry()
            stage.settle()
        assert [line for corp in CORPS for line in stage.differences(corp)] == []
        assert {stage.granted(corp)["status"] for corp in CORPS} == {"active"}

    def test_what_goes_out_of_view_is_hidden_and_comes_back(self, stage: Stage) -> None:
        stage.begin()
        access = stage.app.corps[CORPS[0]].access
        below = [row["dept_id"] for row in stage.place.simulator.truth("shop")["departments"] if row["parent_id"] == 1]
        access.authed_dept = (below[0],)
        stage.tell("change_auth")
        stage.settle()
        assert stage.granted()["scope"]["departments"] == [below[0]]
        hidden = {row["userid"] for row in stage.place.rows(tables.users) if not row["visible"]}
        seen = {row["userid"] for row in stage.place.rows(tables.users) if row["visible"]}
        assert hidden and seen
        assert {row["deleted_at"] for row in stage.place.rows(tables.users)} == {None}
        access.authed_dept = (1,)
        stage.tell("org_micro_app_scope_update")
        stage.settle()
        assert stage.differences() == []

    def test_an_app_that_is_switched_off_rests_until_it_is_on_again(self, stage: Stage) -> None:
        stage.begin()
        stage.change("user_modify_org")
        stage.tell("org_micro_app_stop")
        stage.settle()
        assert stage.granted()["status"] == "stopped"
        assert stage.row(tables.corps, corp_id=CORPS[0])["status"] == "active"
        stage.place.simulator.change("shop", "user_add_org", deliver=False)
        stage.tell("org_micro_app_restore")
        stage.settle()
        assert stage.granted()["status"] == "active"
        assert stage.differences() == []

    def test_an_app_that_was_removed(self, stage: Stage) -> None:
        stage.begin()
        stage.tell("org_micro_app_remove")
        stage.settle()
        assert (stage.granted()["status"], stage.granted()["agents"]) == ("stopped", [])
        stage.tell("org_micro_app_restore")
        stage.settle()
        assert stage.granted()["status"] == "active"

    def test_a_lost_withdrawal_is_found_by_the_next_comparison(self, stage: Stage) -> None:
        stage.begin()
        stage.long_ago()
        stage.place.simulator.push("shop", "suite_relieve")
        with stage.place.parts.store.writing() as connection:
            connection.execute(sa.update(tables.comparisons).values(due_at=1))
        stage.settle()
        assert stage.granted()["status"] == "revoked"
        assert stage.row(tables.corps, corp_id=CORPS[0])["status"] == "revoked"

    def test_a_corp_that_had_authorised_it_before_we_came(self, stage: Stage) -> None:
        stage.tell("suite_ticket")
        stage.change("user_modify_org")
        stage.settle()
        assert stage.granted()["status"] == "active"
        assert stage.differences() == []

    def test_a_corp_that_was_renamed(self, stage: Stage) -> None:
        stage.begin()
        stage.change("org_change")
        stage.settle()
        assert stage.row(tables.corps)["name"] == stage.place.simulator.truth("shop")["corp"]["name"]
        assert stage.differences() == []

    def test_a_corp_that_was_dissolved(self, stage: Stage) -> None:
        stage.begin()
        stage.change("org_remove")
        stage.settle()
        assert stage.row(tables.corps)["status"] == "dissolved"
        assert stage.differences() == []


def test_a_suite_is_created_before_its_key_exists(redis_url: str, tmp_path: Path) -> None:
    """DingTalk checks the address under a key that stands in for the suite's own, and later under that one."""
    bare = a_suite(owner_keys=["suite4xxxxxxxxxxxxxxx"])
    del bare["suite_key"], bare["suite_secret"]
    url = f"sqlite:///{tmp_path}/d.db"
    with installed(redis_url, url, tmp_path, users=5, apps=[bare]) as place, place.receiving():
        place.simulator.push("shop", "check_create_suite_url")
        assert place.simulator.deliveries.wait_idle(20)
    keyed = {"apps": [a_suite()], "encryption_key": SEALING_KEY}
    with installed(redis_url, url, tmp_path, users=5, **keyed) as made, made.receiving():
        made.simulator.push("shop", "check_update_suite_url")
        assert made.simulator.deliveries.wait_idle(20)
    for simulator in (place.simulator, made.simulator):
        assert simulator.deliveries.as_dict()["delivered"] == 1


def test_a_spent_quota_of_one_corp_keeps_nobody_from_being_compared(
    one_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_stage.begin(*CORPS[:2])
    plain = SuiteCorp._exchange

    def spent(client: SuiteCorp, call: str, *given: Any, **named: Any) -> Any:
        if call == "/auth/scopes" and client._corp_id == CORPS[0]:
            error = QuotaSpent("90020", "", call, 600.0)
            client._pause(error, client._payer)
            raise error
        return plain(client, call, *given, **named)

    monkeypatch.setattr(SuiteCorp, "_exchange", spent)
    for corp in CORPS[:2]:
        one_stage.place.simulator.change("shop", "user_add_org", deliver=False, corp=corp)
    with one_stage.place.parts.store.writing() as connection:
        comparisons.make_due(connection, CORPS[0], 1, 1, whole=False, allow_scope=False)
    one_stage.tell("change_auth", CORPS[1])
    one_stage.settle()
    assert one_stage.statuses() == {"applied"}
    assert [one_stage.differences(corp) for corp in CORPS[:2]] == [[], []]
    # What tells of the scope itself waits until it can be read.
    known = len(one_stage.place.rows(tables.events))
    one_stage.tell("change_auth", CORPS[0])
    turns(one_stage)
    assert len(one_stage.place.rows(tables.events)) == known


def test_letting_in_names_active_suites_alone(one_stage: Stage) -> None:
    one_stage.begin(*CORPS)
    one_stage.tell("suite_relieve", CORPS[1])
    one_stage.tell("org_micro_app_stop", CORPS[2])
    one_stage.settle()
    with one_stage.place.parts.store.reading() as connection:
        assert suites.letting_in(connection, CORPS) == {CORPS[0]: {SUITE}}
