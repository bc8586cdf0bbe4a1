"""A third-party app's whole life on a real installation: tickets, three corps that authorise it, and their rows."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from bridge import messages
from bridge.accept import Acceptor
from bridge.config import AppConfig, Config
from bridge.events import CONTACT_EVENTS, Entity
from ops import compose
from simulator.apps import PERMISSIONS, App
from tests.installation import AES_KEY, Installation, installed, settings
from tests.servers import wait_until
from tests.truth import actual_tables, expected_tables
from workers import tickets
from workers.dingtalk import DingTalk
from workers.errors import BadRequest, NotAuthorized, QuotaSpent, Transient
from workers.moment import SECOND
from workers.registry import Registry
from workers.sealing import Seal
from workers.store import comparisons, ledger, reads, suites, tables
from workers.store.reads import Due
from workers.suiteapi import Suite, SuiteCorp
from workers.suites import Suites
from workers.tickets import TicketWatch

SUITE = "suitekey00000000001"
SEALING_KEY = "a key of thirty-two characters.."
CORPS = ("dingcorp1", "dingcorp2", "dingcorp3")
#: What the API never tells a third-party app (KB-A/0056).
DENIED = frozenset({"mobile", "email", "hired_at"})


def a_suite(**changed: Any) -> dict[str, Any]:
    app = {
        "name": "shop",
        "kind": "suite",
        "owner_keys": [SUITE],
        "suite_key": SUITE,
        "suite_secret": "s3cretOfTheSuite",
    }
    return app | {"keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}], "corp_id": CORPS[0]} | changed


TABLES = tables.metadata.tables


def turns(stage: "Stage") -> None:
    """What waits is applied; reads that cannot be made stay."""
    while stage.place.worker.turn():
        pass


def a_millisecond_passes() -> None:
    """DingTalk tells one of two happenings from the other by their times."""
    now = time.time_ns() // 1_000_000
    wait_until(lambda: time.time_ns() // 1_000_000 > now)


@dataclass
class Stage:
    """An installation of one suite; what DingTalk tells it goes straight to the queue."""

    place: Installation
    rows: bool
    sent: list[dict[str, Any]] = field(default_factory=list)

    @property
    def app(self) -> App:
        return self.place.simulator.app("shop")

    def tell(self, event: str, corp: str = CORPS[0], rows: bool | None = None) -> dict[str, Any]:
        """DingTalk tells the suite something about itself."""
        made = self.place.simulator.push("shop", event, self.rows if rows is None else rows, corp)
        self.accept(made["payload"])
        payload: dict[str, Any] = made["payload"]
        return payload

    def accept(self, *told: Mapping[str, Any]) -> None:
        for message in told:
            happened = messages.parse(json.dumps(message).encode(), "shop", None).events
            Acceptor(self.place.parts.connection).accept(happened)

    def change(self, event: str | None = None, corp: str = CORPS[0], entity: str | int | None = None) -> None:
        """The corp changes, and DingTalk pushes the rows."""
        made = self.place.simulator.change("shop", event, entity, deliver=False, corp=corp)
        self.accept(*(row["payload"] for row in made if row["payload"]["bizData"]))

    def made(self, event: str, entity: str | int | None = None) -> list[dict[str, Any]]:
        """What DingTalk would push of a change, for later."""
        return [made["payload"] for made in self.place.simulator.change("shop", event, entity, deliver=False)]

    def hurry(self) -> None:
        """What was put off because DingTalk was busy need not be waited for."""
        connection = self.place.parts.connection
        for key in connection.scan_iter("rq:scheduled:*"):
            for member in connection.zrange(key, 0, -1):
                connection.zadd(key, {member: 1})  # type: ignore[type-var]
        self.due_now()

    def due_now(self) -> None:
        """Reads that were put off need not be waited for."""
        with self.place.parts.store.writing() as connection:
            connection.execute(sa.update(tables.reads).values(due_at=0, taken_until=0))

    def settle(self) -> None:
        """Everything that follows is done: events, the comparisons that are due, and their reads."""
        self.place.work_off()
        nightly = compose.nightly(
            self.place.config, self.place.parts.connection, self.place.parts.store, self.place.parts.readers
        )
        self.wait_for_comparisons()
        nightly.run_due()
        self.place.work_off()

    def wait_for_comparisons(self) -> None:
        """Reads settle after a second; the comparison need not be waited for."""
        with self.place.parts.store.writing() as connection:
            due = tables.comparisons.c.due_at
            connection.execute(sa.update(tables.comparisons).where(due.is_not(None)).values(due_at=1))

    def long_ago(self) -> None:
        """Whatever was told of authorisations has settled."""
        with self.place.parts.store.writing() as connection:
            connection.execute(sa.update(tables.authorizations).values(told_at=1))

    def row(self, table: sa.Table, **where: Any) -> dict[str, Any]:
        (found,) = (row for row in self.place.rows(table) if where.items() <= row.items())
        return found

    def granted(self, corp: str = CORPS[0]) -> dict[str, Any]:
        return self.row(tables.authorizations, corp_id=corp)

    def begin(self, *corps: str) -> None:
        """The ticket has come, and these corps have authorised the suite."""
        self.tell("suite_ticket")
        for corp in corps or CORPS[:1]:
            self.tell("tmp_auth_code", corp)
        self.settle()

    def differences(self, corp: str = CORPS[0]) -> list[str]:
        """Each row that differs from what the corp lets the suite see."""
        expected = expected_tables(self.place.simulator.truth("shop", corp))
        actual = actual_tables(self.place.parts.store, corp)
        for rows in (expected["users"], actual["users"]):
            for user in rows.values():
                for name in DENIED:
                    user.pop(name, None)
        return [
            f"{name} {key}: DingTalk {rows.get(key)}, here {actual[name].get(key)}"
            for name, rows in expected.items()
            for key in sorted(rows.keys() | actual[name].keys(), key=str)
            if rows.get(key) != actual[name].get(key)
        ]

    def statuses(self) -> set[str]:
        return {row["status"] for row in self.place.rows(tables.events)}


@contextmanager
def a_stage(redis_url: str, datastore_url: str, folder: Path, rows: bool, **changed: Any) -> Iterator[Stage]:
    with installed(
        redis_url, datastore_url, folder, users=20, apps=[a_suite(**changed)], encryption_key=SEALING_KEY
    ) as place:
        yield Stage(place, rows)


@pytest.fixture(params=["http on sqlite", "rows on postgresql"])
def stage(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, registry: Registry) -> Iterator[Stage]:
    """One suite, told in each form, each on another datastore: the two have nothing to do with one another."""
    rows = request.param.startswith("rows")
    url = request.getfixturevalue("postgresql_url") if rows else f"sqlite:///{tmp_path}/dingbridge.db"
    with a_stage(redis_url, url, tmp_path, rows) as made:
        yield made


@pytest.fixture
def one_stage(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """On SQLite alone, told over HTTP."""
    with a_stage(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, False) as made:
        yield made


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
        plain = Suite.authorization
        asked: list[str] = []

        def lagging(suite: Suite, corp_id: str) -> Any:
            asked.append(corp_id)
            if len(asked) == 1:
                raise NotAuthorized("33001", "not yet", "/service/get_auth_info")
            return plain(suite, corp_id)

        monkeypatch.setattr(Suite, "authorization", lagging)
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
        plain = Suite.activate
        asked: list[str] = []

        def busy(suite: Suite, corp_id: str, code: str) -> None:
            asked.append(corp_id)
            if len(asked) == 1:
                raise Transient("-1", "busy", "/service/activate_suite")
            plain(suite, corp_id, code)

        monkeypatch.setattr(Suite, "activate", busy)
        one_stage.tell("suite_ticket")
        one_stage.tell("tmp_auth_code")
        turns(one_stage)
        assert [row["type"] for row in one_stage.place.rows(tables.events)] == ["suite_ticket"]
        one_stage.hurry()
        turns(one_stage)
        assert (one_stage.statuses(), one_stage.app.corps[CORPS[0]].close) == ({"applied"}, 1)


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
        plain = Suite.authorization
        asked: list[str] = []

        def busy(suite: Suite, corp_id: str) -> Any:
            asked.append(corp_id)
            if len(asked) == 1:
                raise Transient("-1", "busy", "/service/get_auth_info")
            return plain(suite, corp_id)

        monkeypatch.setattr(Suite, "authorization", busy)
        del told["AuthCorpId"]
        (event,) = messages.parse(json.dumps(told).encode(), "shop", CORPS[0]).events
        Acceptor(one_stage.place.parts.connection).accept([event])
        one_stage.settle()
        assert set(asked) == {CORPS[1]}
        assert (one_stage.granted(CORPS[1])["status"], one_stage.app.corps[CORPS[1]].close) == ("active", 1)
        one_stage.settle()
        assert one_stage.differences(CORPS[1]) == []


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


class TestTheTicket:
    def tickets(self, stage: Stage) -> tuple[str, bool]:
        row = stage.row(tables.suites)
        return row["ticket"], row["ticket_at"] is not None

    def test_it_is_stored(self, stage: Stage) -> None:
        stage.tell("suite_ticket")
        stage.place.worker.turn()
        assert self.tickets(stage) == (stage.app.ticket, True)
        assert stage.statuses() == {"applied"}

    def test_the_newest_wins_however_they_arrive(self, stage: Stage) -> None:
        older = stage.place.simulator.push("shop", "suite_ticket", stage.rows)["payload"]
        a_millisecond_passes()
        newer = stage.place.simulator.push("shop", "suite_ticket", not stage.rows)["payload"]
        stage.accept(newer)
        stage.place.work_off()
        stage.accept(older)
        stage.place.work_off()
        assert self.tickets(stage) == (stage.app.ticket, True)

    def test_a_stale_one_is_waited_out(self, one_stage: Stage) -> None:
        one_stage.begin()
        one_stage.place.simulator.expire_tokens()
        one_stage.place.simulator.push("shop", "suite_ticket")
        one_stage.change("user_modify_org")
        one_stage.place.worker.turn()
        assert one_stage.place.rows(tables.events)[-1]["type"] != "user_modify_org"
        one_stage.tell("suite_ticket")
        one_stage.place.work_off()
        assert one_stage.differences() == []


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


class TestOutOfReach:
    """DingTalk refuses the suite's calls for good: pushed rows speak for themselves until it lets us read again."""

    @pytest.fixture
    def barred(self, redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Stage]:
        with a_stage(redis_url, datastore_url, tmp_path, True) as stage:
            stage.begin()
            stage.app.access.permissions = frozenset()
            yield stage

    def allow(self, stage: Stage) -> None:
        stage.app.access.permissions = PERMISSIONS

    def test_rows_are_written_and_marked_and_replaced_by_the_next_read(self, barred: Stage) -> None:
        # A row does not tell of which level an admin is, nor of groups, nor whom a role that is gone was taken from.
        untold = {"org_remove", "org_admin_add", "org_admin_remove", "label_conf_modify", "label_conf_del"}
        for event in sorted(CONTACT_EVENTS.keys() - untold):
            barred.change(event)
        turns(barred)
        assert barred.statuses() == {"applied", "folded"}
        assert [line for line in barred.differences() if not line.startswith("role_groups")] == []
        marked = [row for name in ("users", "departments", "roles") for row in barred.place.rows(TABLES[name])]
        assert any(row["pushed_at"] for row in marked)
        self.allow(barred)
        barred.due_now()
        barred.settle()
        assert barred.differences() == []
        for name in ("users", "departments"):
            assert {row["pushed_at"] for row in barred.place.rows(TABLES[name]) if row["deleted_at"] is None} == {None}

    def test_an_older_row_takes_nothing_back(self, barred: Stage) -> None:
        userid = barred.place.simulator.truth("shop")["users"][0]["userid"]
        older = barred.made("user_modify_org", userid)
        a_millisecond_passes()
        newer = barred.made("user_modify_org", userid)
        barred.accept(*newer)
        turns(barred)
        barred.accept(*older)
        turns(barred)
        assert barred.differences() == []

    def test_a_role_that_is_gone(self, barred: Stage) -> None:
        barred.change("label_conf_del")
        turns(barred)
        here = {row["role_id"] for row in barred.place.rows(tables.roles) if row["deleted_at"] is None}
        assert here == {row["role_id"] for row in barred.place.simulator.truth("shop")["roles"]}

    def test_a_code_in_the_row_means_hidden(self, barred: Stage) -> None:
        user = barred.place.simulator.truth("shop")["users"][0]["userid"]
        barred.app.access.authed_dept = ()
        barred.change("user_modify_org", entity=user)
        turns(barred)
        row = barred.row(tables.users, userid=user)
        assert (row["visible"], row["deleted_at"], row["name"] is None) == (False, None, False)

    def test_one_that_left(self, barred: Stage) -> None:
        barred.change("user_leave_org")
        turns(barred)
        assert barred.differences() == []
        assert sum(row["deleted_at"] is not None for row in barred.place.rows(tables.users)) == 1


def test_a_suite_without_credentials_writes_what_rows_say(redis_url: str, tmp_path: Path) -> None:
    bare = a_suite()
    del bare["suite_key"], bare["suite_secret"]
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path, users=20, apps=[bare]) as place:
        stage = Stage(place, True)
        stage.app.corps[CORPS[0]].close = 1
        stage.change("user_modify_org")
        place.work_off()
        row = place.rows(tables.users)[0]
        assert (row["fetched_at"], row["name"] is None, row["pushed_at"] is None) == (None, False, False)


class TestTheTicketWatch:
    def test_a_ticket_is_stored_while_nobody_works(self, stage: Stage) -> None:
        watch = TicketWatch(stage.place.parts.connection, stage.place.parts.suites)
        watch.start()
        stage.tell("suite_ticket")
        # Looks are this far apart; how long one takes beside other tests says nothing of the second that is promised.
        assert tickets.LOOK_SECONDS <= 0.25
        wait_until(lambda: stage.place.rows(tables.suites), what="the ticket")
        watch.stop()
        assert stage.row(tables.suites)["ticket"] == stage.app.ticket
        assert stage.place.rows(tables.events) == []
        stage.place.work_off()
        assert stage.statuses() == {"applied"}

    def test_it_looks_at_each_once(self, one_stage: Stage) -> None:
        watch = TicketWatch(one_stage.place.parts.connection, one_stage.place.parts.suites)
        one_stage.tell("suite_ticket")
        assert [watch.look(), watch.look()] == [1, 0]
        one_stage.tell("suite_ticket")
        assert watch.look() == 1
        one_stage.place.work_off()
        assert one_stage.row(tables.suites)["ticket"] == one_stage.app.ticket


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


def test_letting_in_names_active_suites_alone(one_stage: Stage) -> None:
    one_stage.begin(*CORPS)
    one_stage.tell("suite_relieve", CORPS[1])
    one_stage.tell("org_micro_app_stop", CORPS[2])
    one_stage.settle()
    with one_stage.place.parts.store.reading() as connection:
        assert suites.letting_in(connection, CORPS) == {CORPS[0]: {SUITE}}
