"""Items of DingTalk's failed list: every shape that sources show, and what cannot be read."""

import json
from typing import Any

import pytest
from hypothesis import given as of
from hypothesis import strategies as st

from bridge import events, messages, queues
from bridge.errors import MalformedCallback
from bridge.events import Event

CORP = "ding0123456789"
BORN = 1606126433000


def parsed(item: Any, app_corp: str | None = None) -> tuple[Event, ...]:
    return messages.parse_failed_item(item, "acme", app_corp)


def only(item: Any, app_corp: str | None = None) -> Event:
    (event,) = parsed(item, app_corp)
    return event


def item(tag: str, **given: Any) -> dict[str, Any]:
    return {"call_back_tag": tag, "event_time": BORN, **given}


USERS = {"userid": ["zhangsan", "lisi"], "corpid": CORP}
DEPARTMENTS = {"callbackData": {"deptid": [5, 6]}, "corpid": CORP}
ROLES = {"roleLabelChange": {"LabelIdList": [7], "scope": "1"}, "corpid": CORP}
ASSIGNED = {"roleLabelChange": {"userIdList": ["zhangsan"], "labelIdList": [7], "action": "add"}, "corpid": CORP}


@pytest.mark.parametrize(
    ("tag", "data", "users", "departments", "roles"),
    [
        ("user_add_org", USERS, ("zhangsan", "lisi"), (), ()),
        ("user_add_org", {"UserId": ["zhangsan"], "CorpId": CORP}, ("zhangsan",), (), ()),
        ("user_add_org", {"userId": "zhangsan", "corpId": CORP}, ("zhangsan",), (), ()),
        ("org_dept_create", DEPARTMENTS, (), (5, 6), ()),
        ("org_dept_create", {"DeptId": ["5"], "corpid": CORP}, (), (5,), ()),
        ("label_conf_add", ROLES, (), (), (7,)),
        ("label_user_change", ASSIGNED, ("zhangsan",), (), (7,)),
        ("org_change", {"callbackData": {}, "corpid": CORP}, (), (), ()),
    ],
)
@pytest.mark.parametrize("form", ["object", "text", "data", "2016", "record"])
def test_every_shape_says_the_same(
    tag: str,
    data: dict[str, Any],
    users: tuple[str, ...],
    departments: tuple[int, ...],
    roles: tuple[int, ...],
    form: str,
) -> None:
    text = json.dumps(data)
    flat = {name: value for name, value in data.items() if not isinstance(value, dict)}
    flat |= {name: value for inner in data.values() if isinstance(inner, dict) for name, value in inner.items()}
    given = {
        "object": item(tag, **{tag: data}),
        "text": item(tag, **{tag: text}),
        "data": item(tag, data=text),
        "2016": item(tag, **{"userid": [], "deptid": [], **flat}),
        "record": item(tag, id=12, call_back_data=text, corpid=CORP),
    }[form]
    event = only(given)
    assert (event.type, event.app, event.corp_id, event.via) == (tag, "acme", CORP, "failed_list")
    assert (event.user_ids, event.dept_ids, event.role_ids) == (users, departments, roles)
    assert event.occurred_at == BORN
    assert json.loads(bytes(event.payload)) == given
    assert events.queue_of(event.type) == tag


def test_a_second_coming_is_a_repeat_and_another_item_is_not() -> None:
    first = item("user_add_org", user_add_org=USERS)
    again = dict(reversed(first.items()))
    assert only(first).id == only(again).id
    assert only(first).id != only(first | {"event_time": BORN + 1}).id


@pytest.mark.parametrize("place", ["item", "data"])
def test_an_event_id_is_the_one_that_the_callback_had(place: str) -> None:
    message = {"EventType": "user_add_org", "CorpId": CORP, "eventId": "e-1", "userId": ["zhangsan"]}
    (sent,) = messages.parse(json.dumps(message).encode(), "acme", CORP).events
    given = item("user_add_org", user_add_org=USERS | ({"eventId": "e-1"} if place == "data" else {}))
    assert only(given | ({"eventId": "e-1"} if place == "item" else {})).id == sent.id


@pytest.mark.parametrize(
    "message",
    [
        {"EventType": "user_add_org", "CorpId": CORP, "TimeStamp": "1640657432022", "UserId": ["zhangsan"]},
        {
            "EventType": "SYNC_HTTP_PUSH_MEDIUM",
            "bizData": [
                {
                    "subscribe_id": "1_0",
                    "corp_id": CORP,
                    "biz_id": userid,
                    "biz_type": 13,
                    "gmt_modified": BORN,
                    "biz_data": '{"syncAction":"user_add_org"}',
                }
                for userid in ("zhangsan", "lisi")
            ],
        },
    ],
)
def test_a_record_that_holds_the_whole_message_has_the_ids_that_its_callback_had(message: dict[str, Any]) -> None:
    sent = messages.parse(json.dumps(message).encode(), "shop", None).events
    record = item(message["EventType"], id=1, corpid=CORP, call_back_data=json.dumps(message))
    found = messages.parse_failed_item(record, "shop", None)
    assert [(event.id, event.type, event.user_ids) for event in found] == [
        (event.id, event.type, event.user_ids) for event in sent
    ]
    assert {event.via for event in found} == {"failed_list"}


CODED = {"SuiteKey": "suite1", "AuthCode": "c0de", "AuthCorpId": CORP}


@pytest.mark.parametrize(
    "given",
    [
        item("tmp_auth_code", tmp_auth_code=CODED),
        item("tmp_auth_code", tmp_auth_code=json.dumps(CODED)),
        item("tmp_auth_code", call_back_data=CODED),
        item("tmp_auth_code", id=3, call_back_data=json.dumps(CODED)),
        item("tmp_auth_code", data=json.dumps(CODED)),
        item("tmp_auth_code", tmp_auth_code=CODED, data="{broken off"),
        item("tmp_auth_code", **CODED),
    ],
)
def test_what_an_event_says_is_found_in_every_shape(given: dict[str, Any]) -> None:
    event = only(given)
    assert (messages.told(event)["authcode"], event.corp_id) == ("c0de", CORP)
    again = events.Event(**{name: getattr(event, name) for name in event.__struct_fields__} | {"via": "replay"})
    assert messages.told(again)["authcode"] == "c0de"


ROW = {"subscribe_id": "1_0", "corp_id": CORP, "biz_id": "zhangsan", "biz_type": 13, "gmt_modified": BORN}
ROWS = {"bizData": [ROW | {"biz_data": '{"syncAction":"user_add_org"}'}]}
PUSH = "SYNC_HTTP_PUSH_MEDIUM"


@pytest.mark.parametrize(
    "given",
    [
        item(PUSH, call_back_data=json.dumps(ROWS)),
        item(PUSH, call_back_data=ROWS),
        item(PUSH, **{PUSH: ROWS}),
        item(PUSH, **ROWS),
    ],
)
def test_rows_without_their_envelope_are_events_of_their_own(given: dict[str, Any]) -> None:
    (sent,) = messages.parse(json.dumps({"EventType": PUSH} | ROWS).encode(), "acme", None).events
    event = only(given)
    assert (event.id, event.type, event.user_ids, event.corp_id) == (sent.id, "user_add_org", ("zhangsan",), CORP)


def test_a_type_that_nobody_knows_goes_to_other_with_all_it_says() -> None:
    given = item("bpms_instance_change", bpms_instance_change={"bpmsCallBackData": {"title": "x"}, "corpid": CORP})
    event = only(given)
    assert (event.type, events.queue_of(event.type), event.corp_id) == ("bpms_instance_change", "other", CORP)
    assert json.loads(bytes(event.payload)) == given


def test_without_a_corp_it_is_the_apps() -> None:
    assert only(item("user_add_org", user_add_org={"userid": ["zhangsan"]}), CORP).corp_id == CORP


def test_an_item_may_itself_be_text() -> None:
    assert only(json.dumps(item("user_add_org", user_add_org=USERS))).user_ids == ("zhangsan", "lisi")


def test_half_an_emoji_is_no_fault() -> None:
    given = item("user_modify_org", user_modify_org='{"userid":["zhangsan"],"diffInfo":{"curr":{"name":"\\ud83d"}}}')
    assert only(given).user_ids == ("zhangsan",)


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (7, "no JSON object"),
        (None, "no JSON object"),
        ("user_add_org", "no JSON object"),
        ([], "no JSON object"),
        ({}, "no call_back_tag"),
        ({"call_back_tag": ""}, "no call_back_tag"),
        ({"call_back_tag": 7}, "no call_back_tag"),
        (item("user_add_org", user_add_org='{"userid":["zhang'), "not JSON"),
        (item("user_add_org", data=nested(100_000)), "nested too deep"),
    ],
)
def test_what_cannot_be_read_says_why_and_nothing_of_people(given: Any, reason: str) -> None:
    with pytest.raises(MalformedCallback, match=reason) as raised:
        parsed(given)
    assert "zhang" not in str(raised.value)


NAMES = ["call_back_tag", "data", "callbackData", "roleLabelChange", "userid", "deptId", "bizData", "EventType"]
SAID = ["user_add_org", "SYNC_HTTP_PUSH_MEDIUM", "", "{", "7", "\0", '{"userid":[1]}']
TEXTS = st.sampled_from([*NAMES, *SAID]) | st.text()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=4) | inner.map(json.dumps),
    max_leaves=12,
)


@of(VALUES, VALUES)
def test_whatever_it_is_it_becomes_jobs_or_is_named(first: Any, second: Any) -> None:
    for given in (first, item("user_add_org", user_add_org=first, data=second)):
        try:
            found = parsed(given)
        except MalformedCallback:
            continue
        assert all(queues.decode(queues.encode(event)).id == event.id for event in found)
