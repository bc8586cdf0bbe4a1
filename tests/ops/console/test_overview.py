"""The front page tells at a glance, and never of people."""

import re

import pytest
import redis
import sqlalchemy as sa

from bridge import messages
from ops.console.overview import PARTS
from tests.installation import CORP
from tests.ops.console import sample
from tests.ops.console.visitor import Opener, Visitor
from workers.budget import Budget
from workers.store import tables
from workers.store.engine import Store


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def tiles(visitor: Visitor) -> dict[str, str]:
    found = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", visitor.get("/parts/glance").text)
    return dict(found)


def test_a_newcomer_is_told_what_to_do(visitor: Visitor) -> None:
    page = text_of(visitor.get("/").text)
    for told in ("dingbridge send user_add_org", "dingbridge work", "dingbridge sync", "No event was applied yet"):
        assert told in page


def test_what_came_in_and_where_it_is(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 10)
    sample.fail(connection, 2, "no permission")
    claims, taken = sample.claim(connection, 4)
    claims.put_off(taken[0], 300, 1)
    shown = tiles(visitor)
    expected = {"Came in": "10", "Waiting": "4", "In hand": "3", "Put off": "1", "Failed": "2"}
    assert {name: shown[name] for name in expected} == expected
    row = next(row for row in visitor.get("/parts/queues").text.split("<tr>") if ">user_add_org</th>" in row)
    for registry in ("queued", "started", "scheduled", "failed"):
        assert f"/rq/0/view/jobs/user_add_org/{registry}/" in row


def test_jobs_that_nobody_serves_are_pointed_at(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 3)
    assert "3 jobs wait and no worker is alive" in visitor.get("/").text
    connection.sadd("rq:workers", "rq:worker:w1")
    now = "2099-01-01T00:00:00.000000Z"
    connection.hset("rq:worker:w1", mapping={"last_heartbeat": now, "queues": "org_change,jobs", "state": "idle"})
    assert "No worker serves user_add_org" in visitor.get("/").text
    connection.hset("rq:worker:w1", "queues", "org_change,user_add_org")
    assert 'role="alert">No worker' not in visitor.get("/").text


def test_what_became_of_events(visitor: Visitor, store: Store) -> None:
    made = [sample.event(number) for number in range(35)]
    sample.record(store, made[:30])
    sample.record(store, made[30:33], "folded")
    sample.record(store, made[33:], "failed", "no <such> permission")
    page = visitor.get("/parts/events").text
    assert page.count("<tr>") == 31
    assert "no &lt;such&gt; permission" in page
    failed = visitor.get("/parts/events?status=failed").text
    assert failed.count("<tr>") == 3
    assert visitor.get("/parts/events?status=gone").status_code == 404
    front = visitor.get("/?status=failed").text
    assert 'hx-get="/parts/events?status=failed"' in front
    totals = text_of(visitor.get("/parts/totals").text)
    assert "applied 30 30 folded 3 3 ignored 0 0 failed 2 2" in totals


def test_what_dingtalk_does_not_let_us_call_is_told(visitor: Visitor, connection: redis.Redis) -> None:
    budget = Budget(connection, 15)
    budget.pause("acme", "/topapi/v2/user/get", 1, "90018")
    assert 'class="banner"' not in visitor.get("/parts/glance").text
    budget.pause("acme", "/auth/scopes", 600, "90020")
    spent = text_of(visitor.get("/parts/glance").text)
    assert "monthly API quota of acme&#39;s organisation is spent (90020): /auth/scopes is not called" in spent
    budget.pause_all(300)
    assert "DingTalk blocks this address: no call is made for" in text_of(visitor.get("/").text)


def test_rows_that_live_are_counted(visitor: Visitor, store: Store) -> None:
    with store.writing() as sql:
        sql.execute(sa.insert(tables.corps), [{"corp_id": f"ding{number:08}"} for number in range(25)])
        sql.execute(sa.insert(tables.users), [{"corp_id": CORP, "userid": f"u{n}"} for n in range(1234)])
        sql.execute(sa.insert(tables.departments), [{"corp_id": CORP, "dept_id": 1}])
    page = text_of(visitor.get("/parts/totals").text)
    assert "dingcorp… active 1 234 1 0" in page
    assert "and 6 more 0 0 0" in page


def test_an_event_tells_what_it_changed(visitor: Visitor, store: Store) -> None:
    sample.record(store, [sample.event(1)])
    sample.change(store, "event-1")
    page = visitor.get("/events/event-1")
    text = text_of(page.text)
    assert page.status_code == 200
    assert "user_add_org applied" in text
    assert "after 0.50 s" in text
    assert "1 user update mobile, title" in text
    assert "2 user create the whole row" in text
    assert "/rq/0/view/job/event-1" in page.text


def test_an_event_that_waits_and_one_that_nobody_knows(visitor: Visitor, connection: redis.Redis) -> None:
    sample.accept(connection, 1)
    waiting = visitor.get("/events/event-0")
    assert (waiting.status_code, "its job is queued on queue user_add_org" in waiting.text) == (200, True)
    unknown = visitor.get("/events/event-99")
    assert (unknown.status_code, "No such event" in unknown.text) == (404, True)


def test_a_pushed_rows_id_names_whom_it_is_about_and_is_not_shown(visitor: Visitor, store: Store) -> None:
    row = f'{{"subscribe_id":"s","corp_id":"{CORP}","biz_id":"{sample.USERID}","biz_type":13,"gmt_modified":1}}'
    message = f'{{"EventType":"SYNC_HTTP_PUSH_HIGH","bizData":[{row}]}}'
    pushed = messages.parse(message.encode(), "acme", CORP).events[0]
    sample.record(store, [pushed])
    page = visitor.get("/").text
    assert sample.USERID not in page
    link = re.search(r'href="(/events/[^"]+)"', page)
    assert link is not None
    event = visitor.get(link[1].replace("&amp;", "&"))
    assert event.status_code == 200
    assert sample.USERID not in event.text
    assert visitor.get(f"/events/{pushed.id}").status_code == 200


def test_no_page_names_people(visitor: Visitor, connection: redis.Redis, store: Store) -> None:
    made = sample.accept(connection, 5)
    sample.fail(connection, 1, "no permission")
    sample.claim(connection, 1)
    sample.record(store, made)
    sample.change(store, "event-0")
    pages = ["/", "/events/event-0", "/metrics", "/rq/0/data/workers.json", "/rq/0/data/queues.json"]
    pages += [f"/rq/0/data/job/event-{number}.json" for number in range(5)]
    pages += [f"/rq/0/data/jobs/user_add_org/{kind}/8/asc/1.json" for kind in ("queued", "failed", "started")]
    for page in pages:
        answer = visitor.get(page)
        assert answer.status_code == 200
        for private in (sample.USERID, sample.PERSON, "13800000000", "boss of them all"):
            assert private not in answer.text


@pytest.mark.parametrize("name", PARTS)
def test_each_part_refreshes_by_itself(visitor: Visitor, name: str) -> None:
    assert f'hx-get="/parts/{name}" hx-trigger="every {PARTS[name].every}s"' in visitor.get("/").text
    answer = visitor.get(f"/parts/{name}")
    assert answer.status_code == 200
    assert "<html" not in answer.text


def test_a_datastore_without_tables_or_without_an_answer_is_told(opened: Opener, store: Store) -> None:
    visitor = opened()
    visitor.log_in()
    with store.writing() as sql:
        sql.execute(sa.text("DROP TABLE events"))
        sql.execute(sa.text("DROP TABLE alembic_version"))
    for page in ("/", "/parts/totals", "/parts/events"):
        assert (visitor.get(page).status_code, "dingbridge migrate" in visitor.get(page).text) == (200, True)
    assert visitor.get("/events/event-1").status_code == 503


def test_a_comparison_that_stopped_says_what_to_do(visitor: Visitor, store: Store) -> None:
    sample.compare(store, "stopped", stopped=["it would remove 30 of 60 users: allow it with --allow-removals"])
    page = visitor.get("/").text
    assert "it would remove 30 of 60 users: allow it with --allow-removals" in page
    sample.compare(store, "done")
    assert "it would remove" not in visitor.get("/").text
