"""What decrypted messages say: every row of the catalogue in both generations, pushed rows, ids, and broken input."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import events, messages
from bridge.errors import MalformedCallback
from bridge.events import CATALOGUE, CONTACT_EVENTS, SUITE_EVENTS, Entity, Event
from bridge.messages import MAX_DEPTH, MAX_TEXT, parse
from tests.fuzz import targets as fuzz

CORP = "dingcorp01"
MILLIS = 1640657432022
#: What a contact event carries beyond its envelope, by what it touches, in generation B's spelling.
EXTRAS: dict[str, dict[str, Any]] = {
    "users": {"userId": ["zhangsan", "0042"]},
    "departments": {"deptId": [581208264, 1]},
    "roles": {"labelIdList": [1688607309], "scope": "1"},
    "corp": {},
}
#: The ids and entities that come of them.
NAMED: dict[str, tuple[dict[str, Any], tuple[Entity, ...]]] = {
    "users": ({"user_ids": ("zhangsan", "0042")}, (Entity(CORP, "user", "zhangsan"), Entity(CORP, "user", "0042"))),
    "departments": (
        {"dept_ids": (581208264, 1)},
        (Entity(CORP, "department", "581208264"), Entity(CORP, "department", "1")),
    ),
    "roles": ({"role_ids": (1688607309,)}, (Entity(CORP, "roles", ""),)),
    "corp": ({}, (Entity(CORP, "department", "1"),)),
}
#: Suite events as they come over plain HTTP (KB-E/0241 to 0250), and the corp that each is about.
SUITE_PAYLOADS: dict[str, tuple[dict[str, Any], str | None]] = {
    "suite_ticket": ({"SuiteTicket": "ticket"}, None),
    "tmp_auth_code": ({"AuthCode": "code", "AuthCorpId": CORP}, CORP),
    "change_auth": ({"AuthCorpId": CORP}, CORP),
    "suite_relieve": ({"AuthCorpId": CORP}, CORP),
    "check_suite_license_code": ({"AuthCorpId": CORP, "LicenseCode": "licence"}, CORP),
    "market_buy": ({"corpId": CORP, "orderId": 7}, CORP),
    "main_data_subscribe": ({"AuthCorpId": CORP, "IsCreate": True}, CORP),
    "org_micro_app_restore": ({"AuthCorpId": CORP, "AgentId": 1}, CORP),
    "org_micro_app_stop": ({"AuthCorpId": CORP, "AgentId": 1}, CORP),
}
#: Pushed rows by action: biz_type, biz_id, and the ids they name (KB-E/0005, 0350).
ROWS: dict[str, tuple[int, str, dict[str, Any]]] = {
    "suite_ticket": (2, "2530001", {}),
    **dict.fromkeys(("org_suite_auth", "org_suite_change", "org_suite_relieve"), (4, "2530001", {})),
    **dict.fromkeys(
        ("org_micro_app_restore", "org_micro_app_stop", "org_micro_app_remove", "org_micro_app_scope_update"),
        (7, "31", {}),
    ),
    **dict.fromkeys(
        (
            "user_add_org",
            "user_modify_org",
            "user_dept_change",
            "user_role_change",
            "user_active_org",
            "user_leave_org",
        ),
        (13, "0042", {"user_ids": ("0042",)}),
    ),
    **dict.fromkeys(("org_dept_create", "org_dept_modify", "org_dept_remove"), (14, "99", {"dept_ids": (99,)})),
    **dict.fromkeys(("org_role_add", "org_role_modify", "org_role_remove"), (15, "77", {"role_ids": (77,)})),
    **dict.fromkeys(("org_update", "org_remove"), (16, CORP, {})),
    "market_order": (17, "5", {}),
    **dict.fromkeys(("contact_add_org", "contact_modify_org", "contact_leave_org"), (20, "ext1", {})),
    "transfer_contact_id_job_result": (139, "job1", {}),
}


def dump(body: Any) -> bytes:
    return json.dumps(body, ensure_ascii=False).encode()


def one(body: dict[str, Any], app: str = "acme", corp: str | None = None) -> Event:
    (event,) = parse(dump(body), app, corp).events
    return event


def generation_b(event_type: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "EventType": event_type,
        "EventTime": MILLIS,
        "CorpId": CORP,
        "BizId": "b",
        "eventId": "e-1",
    }
    if event_type == "label_user_change":
        return body | {"userIdList": ["zhangsan", "0042"], "labelIdList": [1688607309], "action": "add"}
    for touched in CONTACT_EVENTS[event_type].touches:
        body |= EXTRAS[touched]
    return body


def generation_a(event_type: str) -> dict[str, Any]:
    """The same happening in capitals, with the time as a string and without an id."""
    newer = generation_b(event_type)
    body = {name[0].upper() + name[1:]: value for name, value in newer.items() if name not in ("scope", "action")}
    for gone in ("EventTime", "BizId", "EventId"):
        del body[gone]
    return body | {"TimeStamp": str(MILLIS), "OptStaffId": "boss"}


def row(action: str = "user_modify_org", **changed: Any) -> dict[str, Any]:
    biz_type, biz_id, _ = ROWS[action]
    return {
        "id": 230,
        "gmt_create": MILLIS - 1,
        "gmt_modified": MILLIS,
        "subscribe_id": "2530001_0",
        "corp_id": CORP,
        "biz_id": biz_id,
        "biz_type": biz_type,
        "biz_data": json.dumps({"syncAction": action, "syncSeq": "1ABA"}),
        "open_cursor": 0,
        "status": 0,
    } | changed


def pushed(*rows: Any) -> tuple[Event, ...]:
    return parse(dump({"EventType": "SYNC_HTTP_PUSH_HIGH", "bizData": rows}), "acme", "appcorp").events


class TestGolden:
    @pytest.mark.parametrize("make", [generation_a, generation_b])
    @pytest.mark.parametrize("event_type", CONTACT_EVENTS)
    def test_a_contact_event(self, event_type: str, make: Any) -> None:
        body = make(event_type)
        event = one(body)
        (touched,) = CONTACT_EVENTS[event_type].touches
        ids, entities = NAMED[touched]
        if event_type == "label_user_change":
            ids = ids | {"role_ids": (1688607309,)}
        assert (event.type, event.corp_id, event.app, event.via) == (event_type, CORP, "acme", "http")
        assert event.occurred_at == MILLIS
        named = {"user_ids": event.user_ids, "dept_ids": event.dept_ids, "role_ids": event.role_ids}
        assert named == {"user_ids": (), "dept_ids": (), "role_ids": ()} | ids
        assert events.entities(event) == entities
        assert events.queue_of(event.type) == event_type
        assert bytes(event.payload) == dump(body)
        assert event.id == ("e-1" if make is generation_b else messages.fingerprint("acme", body))

    @pytest.mark.parametrize("event_type", SUITE_PAYLOADS)
    def test_a_suite_event(self, event_type: str) -> None:
        extra, corp = SUITE_PAYLOADS[event_type]
        event = one({"SuiteKey": "suitekey", "EventType": event_type, "TimeStamp": MILLIS, **extra})
        assert (event.type, event.corp_id, event.occurred_at) == (event_type, corp, MILLIS)
        assert events.entities(event) == () and not (event.user_ids or event.dept_ids or event.role_ids)
        assert events.queue_of(event.type) == event_type

    @pytest.mark.parametrize("as_text", [True, False])
    @pytest.mark.parametrize("action", ROWS)
    def test_a_pushed_row(self, action: str, as_text: bool) -> None:
        biz_type, biz_id, ids = ROWS[action]
        data = {"syncAction": action, "syncSeq": "1ABA"}
        sent = row(action, biz_data=json.dumps(data) if as_text else data)
        (event,) = pushed(sent)
        assert (event.type, event.corp_id, event.occurred_at) == (action, CORP, MILLIS)
        assert event.id == f"2530001_0/{CORP}/{biz_id}/{biz_type}/1ABA"
        named = {"user_ids": event.user_ids, "dept_ids": event.dept_ids, "role_ids": event.role_ids}
        assert named == {"user_ids": (), "dept_ids": (), "role_ids": ()} | ids
        assert len(events.entities(event)) == bool(CATALOGUE[action].touches)
        assert json.loads(bytes(event.payload)) == sent

    def test_no_row_of_the_catalogue_is_left_out(self) -> None:
        assert set(CATALOGUE) == set(CONTACT_EVENTS) | set(SUITE_PAYLOADS) | set(ROWS)
        assert len(CONTACT_EVENTS) == 15
        assert not set(CONTACT_EVENTS) & set(SUITE_EVENTS)
        assert events.queue_names()[0] == "suite_ticket"
        assert sorted(events.queue_names()) == sorted([*CATALOGUE, "other"])


class TestFields:
    @pytest.mark.parametrize("name", ["UserId", "userId", "userid", "USERID", " UserId ", "userIdList", "UserIdList"])
    def test_keys_in_any_case_and_with_stray_spaces(self, name: str) -> None:
        event = one({" eventtype": " user_add_org ", name: ["a"], "CORPID ": CORP, "eventID": "e"})
        assert (event.type, event.user_ids, event.corp_id, event.id) == ("user_add_org", ("a",), CORP, "e")

    def test_of_one_key_in_two_spellings_the_first_that_says_anything_wins(self) -> None:
        assert one({"EventType": "x", "CorpId": "", "corpId": "b", "corpid": "c"}).corp_id == "b"

    @pytest.mark.parametrize(
        ("sent", "read"),
        [
            (["0042"], ("0042",)),
            ([42, "42"], ("42",)),
            ("alone", ("alone",)),
            (7, ("7",)),
            ([" a ", "", "\0", "b\0c", None, True, 1.5, {}, ["d"]], ("a", "bc")),
            (None, ()),
            ({}, ()),
        ],
    )
    def test_user_ids(self, sent: Any, read: tuple[str, ...]) -> None:
        assert one({"EventType": "user_add_org", "UserId": sent}).user_ids == read

    @pytest.mark.parametrize("name", ["deptId", "labelIdList"])
    @pytest.mark.parametrize(
        ("sent", "read"),
        [
            ([1, "2", 2, " 3 ", "004"], (1, 2, 3, 4)),
            (5, (5,)),
            ([0, -1, "-7", -(2**63), 2**63, 2**64, 10**30, str(2**63)], ()),
            ([2**63 - 1, str(2**63 - 1)], (2**63 - 1,)),
            (["a", "", None, True, 1.0, "1.0", "１", {}], ()),
        ],
    )
    def test_department_and_role_ids(self, name: str, sent: Any, read: tuple[int, ...]) -> None:
        event = one({"EventType": "org_dept_modify", name: sent})
        assert (event.dept_ids if name == "deptId" else event.role_ids) == read

    @pytest.mark.parametrize(
        ("fields", "read"),
        [
            ({"EventTime": MILLIS, "timeStamp": "1"}, MILLIS),
            ({"EventTime": "", "timeStamp": str(MILLIS)}, MILLIS),
            ({"TimeStamp": MILLIS}, MILLIS),
            ({"eventBornTime": str(MILLIS)}, MILLIS),
            ({"TimeStamp": "yesterday"}, None),
            ({"TimeStamp": -MILLIS}, None),
            ({"TimeStamp": 10**17}, None),
            ({}, None),
        ],
    )
    def test_the_time(self, fields: dict[str, Any], read: int | None) -> None:
        assert one({"EventType": "x", **fields}).occurred_at == read

    @pytest.mark.parametrize(
        ("fields", "app_corp", "read"),
        [
            ({"CorpId": "a", "AuthCorpId": "b"}, "c", "a"),
            ({"AuthCorpId": "b"}, "c", "b"),
            ({"corpid": " a\0 "}, "c", "a"),
            ({"CorpId": " ", "AuthCorpId": 3}, "c", "3"),
            ({"CorpId": None}, "c", "c"),
            ({"DataList": [{"corpId": "inner"}]}, None, None),
        ],
    )
    def test_the_corp(self, fields: dict[str, Any], app_corp: str | None, read: str | None) -> None:
        event = one({"EventType": "user_add_org", "UserId": ["a"], **fields}, corp=app_corp)
        assert event.corp_id == read
        assert len(events.entities(event)) == (read is not None)

    def test_an_entity_that_is_named_twice_is_read_once(self) -> None:
        event = one({"EventType": "label_user_change", "UserIdList": ["a", "b"], "UserId": ["a"], "CorpId": CORP})
        assert events.entities(event) == (Entity(CORP, "user", "a"), Entity(CORP, "user", "b"))

    def test_via(self) -> None:
        for via in ("http", "stream", "failed_list", "replay"):
            assert parse(b'{"EventType":"x"}', "acme", None, via).events[0].via == via

    @pytest.mark.parametrize("event_type", ["bpms_task_change", "label_user_scope_change", "SYNC_HTTP_PUSH_HIGH", "中"])
    def test_an_unknown_type_goes_to_other(self, event_type: str) -> None:
        event = one({"EventType": event_type, "UserId": ["a"], "CorpId": CORP})
        assert event.type == event_type and events.queue_of(event.type) == "other" and events.entities(event) == ()


class TestIds:
    body = generation_a("user_modify_org")

    def test_the_order_of_keys_and_spaces_do_not_matter(self) -> None:
        turned = json.dumps(dict(reversed(self.body.items())), indent=4).encode()
        (event,) = parse(turned, "acme", None).events
        assert event.id == one(self.body).id

    def test_escapes_do_not_matter(self) -> None:
        body = self.body | {"name": "张三🐉/"}
        (event,) = parse(json.dumps(body).encode(), "acme", None).events
        assert event.id == one(body).id

    def test_it_is_the_sha_256_of_the_app_and_the_canonical_json(self) -> None:
        body = {"b": [1, "张"], "EventType": "x"}
        canonical = '{"EventType":"x","b":[1,"张"]}'
        assert one(body).id == hashlib.sha256(f"acme\n{canonical}".encode()).hexdigest()

    def test_another_app_another_content_another_id(self) -> None:
        ids = [one(self.body).id, one(self.body, "beta").id, one(self.body | {"UserId": ["x"]}).id]
        assert len(set(ids)) == 3

    def test_dingtalks_own_id_is_the_same_for_every_app(self) -> None:
        assert one({"EventType": "x", "eventId": "e"}).id == one({"EventType": "y", "eventId": "e"}, "beta").id == "e"

    @pytest.mark.parametrize("event_id", ["", " ", "\0", None, True, []])
    def test_an_id_that_says_nothing_is_none(self, event_id: Any) -> None:
        body = {"EventType": "x", "eventId": event_id}
        assert one(body).id == messages.fingerprint("acme", body)

    def test_a_pushed_row_without_a_sequence_goes_by_its_time(self) -> None:
        (event,) = pushed(row(biz_data='{"syncAction":"user_modify_org"}'))
        assert event.id == f"2530001_0/{CORP}/0042/13/{MILLIS}"

    def test_a_pushed_row_keeps_its_id_when_it_is_inserted_anew(self) -> None:
        assert pushed(row(id=1))[0].id == pushed(row(id=2, status=1))[0].id

    @pytest.mark.parametrize("name", ["subscribe_id", "corp_id", "biz_id", "biz_type"])
    def test_a_pushed_row_without_a_key_goes_by_its_content(self, name: str) -> None:
        sent = row()
        del sent[name]
        assert pushed(sent)[0].id == messages.fingerprint("acme", sent)

    @given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
    def test_a_job_id_holds_only_what_rq_allows(self, event_id: str) -> None:
        made = events.job_id(event_id)
        assert 1 <= len(made) <= 100 and set(made) <= set(
            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
        )

    def test_a_job_id_is_the_events_own_where_it_can_be(self) -> None:
        assert events.job_id("aZ_9-" * 20) == "aZ_9-" * 20
        for other in ("a" * 101, "a/b", "a\n", "中"):
            assert events.job_id(other) == hashlib.sha256(other.encode()).hexdigest()


class TestDescribe:
    def test_counts_instead_of_ids(self) -> None:
        event = one(
            {"EventType": "label_user_change", "UserIdList": ["zhangsan", "b"], "LabelIdList": [9], "CorpId": CORP}
        )
        assert events.describe(event) == "label_user_change dingcorp… users=2 roles=1"
        assert events.describe(one(generation_b("org_dept_modify"))) == "org_dept_modify dingcorp… departments=2"

    def test_without_a_corp_or_ids(self) -> None:
        assert events.describe(one({"EventType": "suite_ticket", "SuiteTicket": "secret"})) == "suite_ticket no corp"
        assert events.describe(one({"EventType": "org_change", "CorpId": "short"})) == "org_change short"


class TestChecks:
    @pytest.mark.parametrize("event_type", ["check_create_suite_url", "check_update_suite_url"])
    def test_a_suites_check_has_its_random(self, event_type: str) -> None:
        assert parse(dump({"EventType": event_type, "Random": "LPIdSnlF"}), "a", None) == (event_type, (), "LPIdSnlF")
        assert parse(dump({"EventType": event_type, "Random": 7}), "a", None).random is None
        assert parse(dump({"EventType": event_type}), "a", None).random is None

    def test_the_plain_check_has_none(self) -> None:
        assert parse(b'{"EventType":"check_url","Random":"LPIdSnlF"}', "a", None) == ("check_url", (), None)


class TestPushedRows:
    def test_each_row_is_an_event(self) -> None:
        made = pushed(row("user_add_org"), row("org_dept_create"), row("suite_ticket"))
        assert [event.type for event in made] == ["user_add_org", "org_dept_create", "suite_ticket"]
        assert len({event.id for event in made}) == 3

    @pytest.mark.parametrize("envelope", ["SYNC_HTTP_PUSH_HIGH", "SYNC_HTTP_PUSH_MEDIUM", " SYNC_HTTP_PUSH_HIGH "])
    def test_an_empty_envelope_has_no_event(self, envelope: str) -> None:
        assert parse(dump({"EventType": envelope, "bizData": []}), "a", None) == (envelope.strip(), (), None)

    @pytest.mark.parametrize("rows", [None, "[]", {}, 7])
    def test_an_envelope_without_rows_is_kept_as_it_is(self, rows: Any) -> None:
        event = one({"EventType": "SYNC_HTTP_PUSH_HIGH", "bizData": rows})
        assert event.type == "SYNC_HTTP_PUSH_HIGH" and events.queue_of(event.type) == "other"

    @pytest.mark.parametrize(
        "broken", [{"x": 1}, {"biz_data": "{"}, {"biz_data": 3}, {"biz_data": "[1]"}, {"biz_data": '{"syncSeq":1e400}'}]
    )
    def test_a_row_that_cannot_be_read_is_kept_and_harms_no_other(self, broken: Any) -> None:
        lost, kept = pushed(broken, row())
        assert (lost.type, lost.corp_id, events.queue_of(lost.type)) == ("SYNC_HTTP_PUSH_HIGH", "appcorp", "other")
        assert json.loads(bytes(lost.payload)) == broken
        assert kept.type == "user_modify_org"

    @pytest.mark.parametrize("broken", [None, 5, "text", [], [row()], {}])
    def test_what_is_no_row_is_kept_within_its_envelope_and_harms_no_other(self, broken: Any) -> None:
        kept, lost = pushed(broken, row(), broken)
        assert kept.type == "user_modify_org"
        assert (lost.type, lost.corp_id, events.queue_of(lost.type)) == ("SYNC_HTTP_PUSH_HIGH", "appcorp", "other")
        body = {"EventType": "SYNC_HTTP_PUSH_HIGH", "bizData": [broken, row(), broken]}
        assert json.loads(bytes(lost.payload)) == body and lost.id == messages.fingerprint("acme", body)

    def test_broken_data_keeps_the_rows_keys(self) -> None:
        (event,) = pushed(row(biz_data="no JSON"))
        assert event.user_ids == ("0042",) and event.id.endswith(f"/{MILLIS}")

    def test_a_name_cut_in_the_middle_of_an_emoji_does_not_spoil_the_row(self) -> None:
        (event,) = pushed(row(biz_data='{"syncAction":"user_modify_org","syncSeq":"2","name":"\\ud83d"}'))
        assert event.type == "user_modify_org" and event.id.endswith("/2")

    def test_a_nul_in_the_data_is_replaced_and_the_payload_kept(self) -> None:
        inner = json.dumps({"name": "b\0"})
        sent = row(biz_data=json.dumps({"syncAction": "user_modify_org", "name": "a\0", "extension": inner}))
        (event,) = pushed(sent)
        assert messages.told(event)["name"] == "a\ufffd"
        assert json.loads(messages.told(event)["extension"]) == {"name": "b\ufffd"}
        assert json.loads(bytes(event.payload)) == sent

    @pytest.mark.parametrize("code", ["plain", "AB/CD=", 'AB"CD', "x\\y", ""])
    @pytest.mark.parametrize("name", ["permanent_code", "permanentCode"])
    def test_no_permanent_code_stays_however_it_is_written(self, name: str, code: str) -> None:
        inner = {"syncAction": "org_suite_auth", name: code, "auth_info": json.dumps({name: code, "kept": "yes"})}
        (event,) = pushed(row(biz_data=json.dumps(inner).replace("/", "\\/").replace("=", "\\u003d")))
        told = messages.told(event)
        assert (event.type, told[name.lower()]) == ("org_suite_auth", "")
        assert json.loads(told["auth_info"]) == {name: "", "kept": "yes"}

    def test_a_code_that_is_broken_off_takes_no_other_row_with_it(self) -> None:
        told = json.dumps({"syncAction": "user_leave_org", "syncSeq": "2"})
        lost, kept, last = pushed(row(biz_data='{"permanent_code":"abc'), row(biz_data=told), row())
        assert b"abc" not in bytes(lost.payload)
        assert (kept.type, last.type) == ("user_leave_org", "user_modify_org")

    @pytest.mark.parametrize("depth", [10, MAX_DEPTH - 1, MAX_DEPTH, 200_000])
    def test_deep_data(self, depth: int) -> None:
        deep = '{"syncAction":"user_modify_org","x":' + "[" * depth + "]" * depth + "}"
        (event,) = pushed(row(biz_data=deep))
        assert event.user_ids == ("0042",)
        assert event.type == ("user_modify_org" if depth < MAX_DEPTH else "SYNC_HTTP_PUSH_HIGH")


class TestBrokenText:
    @pytest.mark.parametrize(
        ("sent", "read"),
        [
            (rb"\ud83d", "\ufffd"),
            (rb"\uDC09", "\ufffd"),
            (rb"a\ud83db", "a\ufffdb"),
            (rb"\ud83d\ud83d\udc09", "\ufffd🐉"),
            (rb"\uDC09\uD83D", "\ufffd\ufffd"),
            (rb"\ud83d\udc09", "🐉"),
            (rb"\\ud83d", "\\ud83d"),
            (rb"\\\ud83d", "\\\ufffd"),
            (rb"\ud83d\n", "\ufffd\n"),
            (rb"\ud7ff\ue000", "\ud7ff\ue000"),
        ],
    )
    def test_half_a_surrogate_pair(self, sent: bytes, read: str) -> None:
        (event,) = parse(b'{"EventType":"user_add_org","name":"%s"}' % sent, "acme", None).events
        assert json.loads(bytes(event.payload))["name"] == read

    def test_what_is_whole_stays_byte_for_byte(self) -> None:
        message = rb'{ "EventType" : "x", "name" : "\uD83D\uDC09 \u5f20\/" }'
        assert bytes(parse(message, "acme", None).events[0].payload) == message

    def test_a_byte_order_mark_is_taken_off(self) -> None:
        mark, body = b"\xef\xbb\xbf", generation_a("user_add_org")
        (event,) = parse(mark + dump(body), "acme", None).events
        assert event == one(body)
        with pytest.raises(MalformedCallback, match="not JSON"):
            parse(mark * 2 + dump(body), "acme", None)
        (event,) = pushed(row(biz_data=mark.decode() + '{"syncAction":"user_add_org"}'))
        assert event.type == "user_add_org"

    @pytest.mark.parametrize("name", ["eventId", "UserId", "CorpId"])
    @pytest.mark.parametrize("letter", ["a", "张", "🐉"])
    def test_an_id_that_no_index_could_hold_is_none(self, name: str, letter: str) -> None:
        fits = letter * (MAX_TEXT // len(letter.encode()))
        for text, kept in ((fits, True), (fits + letter, False)):
            event = one({"EventType": "user_add_org", name: text})
            assert (text in (event.id, event.corp_id, *event.user_ids)) is kept

    def test_a_type_that_is_too_long_is_none(self) -> None:
        with pytest.raises(MalformedCallback, match="EventType"):
            parse(dump({"EventType": "x" * (MAX_TEXT + 1)}), "acme", None)

    def test_nul(self) -> None:
        event = one({"EventType": "user_add_org\0", "CorpId": "a\0b", "UserId": ["\0"], "eventId": "\0e"})
        assert (event.type, event.corp_id, event.user_ids, event.id) == ("user_add_org", "ab", (), "e")

    @pytest.mark.parametrize("message", [b"", b" ", b"{", b"{}x", b"\xff", b"success", b"{'a':1}", b"NaN"])
    def test_no_json(self, message: bytes) -> None:
        with pytest.raises(MalformedCallback):
            parse(message, "acme", None)

    @pytest.mark.parametrize("message", [b"[]", b"null", b"1", b'"x"', b"[{}]"])
    def test_no_object(self, message: bytes) -> None:
        with pytest.raises(MalformedCallback, match="no JSON object"):
            parse(message, "acme", None)

    @pytest.mark.parametrize(
        "body", [{}, {"EventType": ""}, {"EventType": " \0 "}, {"EventType": None}, {"EventType": 7}]
    )
    def test_no_event_type(self, body: dict[str, Any]) -> None:
        with pytest.raises(MalformedCallback, match="EventType"):
            parse(dump(body), "acme", None)

    @pytest.mark.parametrize("text", [b'"\xff"', b'"\xed\xa0\xbd"', b'"a\x00b"', b"01", b"Infinity"])
    def test_what_json_does_not_know(self, text: bytes) -> None:
        with pytest.raises(MalformedCallback, match="not JSON"):
            parse(b'{"EventType":"x","a":%s}' % text, "acme", None)

    @pytest.mark.parametrize("text", [b"1e400", b"-1e400", b"9" * 400 + b".5", b"9" * 5_000])
    def test_a_number_that_nobody_could_read_again(self, text: bytes) -> None:
        with pytest.raises(MalformedCallback, match="number out of range"):
            parse(b'{"EventType":"x","a":%s}' % text, "acme", None)

    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_a_depth_that_every_reader_can_take(self, opening: str) -> None:
        closing = "]" if opening == "[" else "}"
        for depth in [1, MAX_DEPTH - 2, MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1, *range(850, 1010), 200_000]:
            inner = opening * depth + "1" + closing * depth
            message = f'{{"EventType":"x","x":{inner},"y":[{{}}]}}'.encode()
            if depth < MAX_DEPTH:
                fuzz.parse(message)
                assert len(parse(message, "acme", None).events) == 1
            else:
                with pytest.raises(MalformedCallback, match="nested too deep"):
                    parse(message, "acme", None)

    def test_brackets_in_a_text_are_no_depth(self) -> None:
        assert one({"EventType": "x", "name": "[" * 5_000 + '\\"{' * 500}).type == "x"


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)
Known = st.sampled_from(
    ["EventType", "CorpId", "UserId", "DeptId", "LabelIdList", "TimeStamp", "eventId", "bizData", "Random", "biz_data"]
)
Types = st.sampled_from([*CATALOGUE, "SYNC_HTTP_PUSH_HIGH", "check_url", "bpms_task_change", ""])


class TestNothingElseIsRaised:
    @given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_any_bytes(self, message: bytes) -> None:
        fuzz.parse(message)

    @given(Json)
    def test_any_json(self, body: Any) -> None:
        fuzz.parse(json.dumps(body).encode())

    @given(st.dictionaries(Known | st.text(), Json), Types, st.booleans())
    def test_any_event(self, body: dict[str, Any], event_type: str, ascii_only: bool) -> None:
        fuzz.parse(
            json.dumps({"EventType": event_type, **body}, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
        )

    @given(st.lists(st.dictionaries(Known | st.sampled_from(list(row())), Json) | Json, max_size=4))
    def test_any_rows(self, rows: list[Any]) -> None:
        fuzz.parse(json.dumps({"EventType": "SYNC_HTTP_PUSH_HIGH", "bizData": rows}).encode())


class TestMemory:
    @pytest.mark.parametrize("name", ["bizData", "UserId", "x"])
    @pytest.mark.parametrize(
        "unit", ["1", "1.5", '"a"', '"\\n"', "{}", "[]", "[[]]", '{"":0}', '{"a":{}}', '{"biz_id":1}', '"\\ud83d"']
    )
    def test_many_small_values_cost_a_multiple_of_their_size(self, unit: str, name: str) -> None:
        values = ",".join([unit] * (20_000 // len(unit)))
        fuzz.parse(f'{{"EventType":"SYNC_HTTP_PUSH_HIGH","{name}":[{values}]}}'.encode())
