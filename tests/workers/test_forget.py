"""A person who left is erased everywhere, and nothing else is."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from bridge import messages
from bridge.events import Event
from tests.installation import CORP
from tests.workers.helpers import Desk, Shop, a_user, an_event, chain_breaks, user
from workers import forget as module
from workers.errors import NotForgettable
from workers.forget import Forgotten, erased, forget
from workers.store import failed_lists, tables
from workers.store.draft import Absence
from workers.store.tables import PERSONAL_COLUMNS

LEAVER, OTHER = user("leaver4711"), user("other0815")
#: Everything that is known of the person, each value found nowhere else.
PERSON: dict[str, Any] = {
    "name": "王小明-gone",
    "unionid": "unionid-gone",
    "title": "title-gone",
    "mobile": "13800000001-gone",
    "state_code": "86-gone",
    "telephone": "0571-gone",
    "email": "gone@example.com",
    "org_email": "gone@corp.example.com",
    "job_number": "number-gone",
    "manager_userid": "boss-gone",
    "work_place": "place-gone",
    "remark": "remark-gone",
    "extension": '{"hobby":"gone"}',
    "hired_date": 1_234_567_890_000,
    "avatar": "https://example.com/gone.jpg",
}


def payload(**fields: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode({"EventType": "user_modify_org", "CorpId": CORP, **fields}))


def told_of(userids: Sequence[str], event_id: str, **fields: Any) -> Event:
    diff = {"prev": {"name": PERSON["name"]}, "curr": {"mobile": PERSON["mobile"]}}
    fields = {"diffInfo": diff, "eventId": event_id, "userId": userids, **fields}
    return an_event(users=userids, event_id=event_id, payload=payload(**fields))


@pytest.fixture
def left(desk: Desk) -> Desk:
    """A desk that knows of a person who came, changed and left."""
    desk.script.answers = {OTHER: a_user(OTHER.id, name="Other", mobile="other-mobile")}
    for event_id, answer in (
        ("came", a_user(LEAVER.id, {1: 5}, **PERSON)),
        ("changed", a_user(LEAVER.id, {1: 5, 2: 6}, **{**PERSON, "title": "second title-gone"})),
        ("left", Absence.GONE),
    ):
        desk.script.answers[LEAVER] = answer
        desk.apply(told_of([LEAVER.id], event_id))
    desk.apply(told_of([LEAVER.id, OTHER.id], "both"))
    desk.apply(an_event(users=[OTHER.id], event_id="other", payload=payload(diffInfo={"curr": {"name": "Other"}})))
    return desk


def everything(desk: Desk) -> str:
    """All text of all tables."""
    with desk.store.reading() as connection:
        rows = [
            dict(row)
            for table in tables.metadata.sorted_tables
            for row in connection.execute(sa.select(table)).mappings()
        ]
    return msgspec.json.encode(rows).decode()


def test_no_table_holds_any_of_the_person_afterwards(left: Desk) -> None:
    values = ("gone", "王小明", "2009-02-13")
    before = everything(left)
    assert all(value in before for value in values)
    assert forget(left.store, CORP, LEAVER.id) == Forgotten(3, 4, 0)
    after = everything(left)
    assert [value for value in values if value in after] == []
    assert all(value in after for value in ("Other", "other-mobile"))


def test_the_tombstone_stays_with_its_keys(left: Desk) -> None:
    before = left.user(LEAVER.id)
    forget(left.store, CORP, LEAVER.id)
    after = left.user(LEAVER.id)
    assert {name for name in after if after[name] != before[name]} <= {*PERSONAL_COLUMNS["users"], "version"}
    assert {after[name] for name in PERSONAL_COLUMNS["users"]} == {None}
    assert after["deleted_at"] is not None
    assert after["version"] == before["version"] + 1


def test_the_history_keeps_what_happened_without_the_person(left: Desk) -> None:
    before = left.rows(tables.changes, entity_id=LEAVER.id)
    forget(left.store, CORP, LEAVER.id)
    after = left.rows(tables.changes, entity_id=LEAVER.id)
    assert [row["operation"] for row in after] == ["create", "update", "delete"]
    assert after[1]["after"].keys() == before[1]["after"].keys()
    assert [row["dept_id"] for row in after[1]["after"]["departments"]] == [1, 2]
    assert list(chain_breaks(after)) == []


def test_payloads_keep_types_ids_and_times(left: Desk) -> None:
    forget(left.store, CORP, LEAVER.id)
    payloads = {row["id"]: row["payload"] for row in left.rows(tables.events)}
    envelope = {"EventType": "user_modify_org", "CorpId": CORP, "eventId": "both"}
    assert payloads["both"] == envelope | {"userId": [LEAVER.id, OTHER.id]}
    assert payloads["other"]["diffInfo"] == {"curr": {"name": "Other"}}


def test_again_is_harmless(left: Desk) -> None:
    forget(left.store, CORP, LEAVER.id)
    assert forget(left.store, CORP, LEAVER.id) == Forgotten(0, 0, 0)


def test_a_payload_that_names_the_person_in_passing_is_erased_too(left: Desk) -> None:
    """By the unionid alone, or in the JSON text of a pushed row."""
    row = {
        "biz_id": "x",
        "biz_type": 20,
        "biz_data": f'{{"syncAction":"a","unionid":"{PERSON["unionid"]}","name":"n"}}',
    }
    left.apply(an_event("contact_add_org", event_id="row", payload=msgspec.Raw(msgspec.json.encode(row))))
    left.apply(an_event("chat_quit", event_id="chat", payload=payload(staffs=[{"id": LEAVER.id, "name": "n"}])))
    left.apply(an_event("chat_quit", event_id="did", payload=payload(optStaffId=LEAVER.id, title="kept")))
    left.apply(an_event("chat_quit", event_id="near", payload=payload(staffs=[LEAVER.id + "0"], title="kept")))
    forget(left.store, CORP, LEAVER.id)
    payloads = {row["id"]: row["payload"] for row in left.rows(tables.events)}
    assert payloads["row"] == {"biz_id": "x", "biz_type": 20, "biz_data": '{"syncAction":"a"}'}
    assert payloads["chat"] == {"EventType": "user_modify_org", "CorpId": CORP}
    assert payloads["did"]["title"] == payloads["near"]["title"] == "kept"


def test_replies_of_the_failed_list_that_name_the_person_are_erased_once_taken(left: Desk) -> None:
    now = datetime.now(UTC)
    with left.store.writing() as connection:
        for userid, taken in ((LEAVER.id, True), (OTHER.id, True), (LEAVER.id, False)):
            body = {"failed_list": [{"call_back_tag": "user_add_org", "user_add_org": {"userid": [userid]}}]}
            call = failed_lists.begin(connection, "acme", now)
            failed_lists.keep(connection, call, msgspec.json.encode(body), now)
            if taken:
                failed_lists.finish(connection, call, now, None)
        broken = failed_lists.begin(connection, "acme", now)
        failed_lists.keep(connection, broken, b"<html>", now)
        failed_lists.finish(connection, broken, now, "no JSON")
    assert forget(left.store, CORP, LEAVER.id).replies == 2
    with left.store.reading() as connection:
        query = sa.select(tables.failed_lists.c.body).order_by(tables.failed_lists.c.id)
        kept = [body is not None for body in connection.scalars(query)]
    assert kept == [False, True, True, False]


def test_another_corp_keeps_its_person_of_the_same_id(left: Desk) -> None:
    there = user(LEAVER.id, "dingother")
    left.write({there: a_user(LEAVER.id, name="Somebody there")})
    left.script.answers[there] = a_user(LEAVER.id, name="Somebody there")
    left.apply(an_event(users=[LEAVER.id], event_id="there", corp="dingother", payload=payload(title="kept")))
    forget(left.store, CORP, LEAVER.id)
    assert left.row(tables.users, corp_id="dingother")["name"] == "Somebody there"
    assert left.row(tables.events, id="there")["payload"]["title"] == "kept"


def test_whoever_has_not_left_is_refused(left: Desk) -> None:
    before = everything(left)
    with pytest.raises(NotForgettable, match="only who left can be forgotten"):
        forget(left.store, CORP, OTHER.id)
    with pytest.raises(NotForgettable, match="no user nobody of dingother is known here"):
        forget(left.store, "dingother", "nobody")
    assert everything(left) == before


def test_a_read_under_way_does_not_write_the_person_back(left: Desk) -> None:
    """It noted the row before; it reads again, and finds nobody."""
    left.script.answers[LEAVER] = a_user(LEAVER.id, **PERSON)

    def meanwhile() -> None:
        forget(left.store, CORP, LEAVER.id)
        left.script.answers[LEAVER] = Absence.GONE

    left.script.meanwhile = meanwhile
    left.apply(an_event(users=[LEAVER.id]))
    assert left.script.asked[-2:] == [LEAVER, LEAVER]
    assert left.user(LEAVER.id)["name"] is None


def test_jobs_that_are_still_owed_run_without_the_person(shop: Shop) -> None:
    desk = shop.desk
    desk.registry.on_change("user")(shop.keep)
    desk.registry.on("user_leave_org")(shop.keep)
    shop.happen(an_event(users=[LEAVER.id]), given={LEAVER: a_user(LEAVER.id, **PERSON)})
    shop.happen(an_event("user_leave_org", users=[LEAVER.id]), given={LEAVER: Absence.GONE})
    forget(desk.store, CORP, LEAVER.id)
    shop.work()
    assert [getattr(called, "operation", "event") for called in shop.called] == ["create", "delete", "event"]
    assert "gone" not in str(shop.called)
    assert shop.owed() == []


def test_much_is_forgotten_page_by_page(left: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAGE", 1)
    assert forget(left.store, CORP, LEAVER.id) == Forgotten(3, 4, 0)


@pytest.mark.parametrize("value", [None, [], "text", 1, {"name": "x"}, {"UserId": [{"name": "x"}]}])
def test_an_odd_payload_keeps_nothing(value: object) -> None:
    assert erased(value) == {}


def test_what_is_kept_is_all_that_the_parser_reads() -> None:
    """An erased message names the same entities as before."""
    message = {
        "EventType": "label_user_change", "eventId": "e1", "EventTime": 1_700_000_000_000, "CorpId": CORP,
        "userIdList": ["u1", "u2"], "labelIdList": [5], "deptId": [7], "name": "x",
    }  # fmt: skip
    (before,) = messages.parse(msgspec.json.encode(message), "acme", None).events
    (after,) = messages.parse(msgspec.json.encode(erased(message)), "acme", None).events
    assert msgspec.structs.replace(after, payload=before.payload) == before
