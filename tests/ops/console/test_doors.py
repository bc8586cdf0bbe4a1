"""Every route that there is: none is open by mistake, none changes anything on GET, each change needs the token."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from rq_dashboard import web
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from ops.console.login import OPEN
from ops.console.sessions import SAFE_METHODS
from tests.ops.console import sample
from tests.ops.console.visitor import PASSWORD, Opener, Visitor
from workers.store.engine import Store
from workers.store.tables import metadata

#: What the parts of URLs are filled with: jobs and queues that there are, so that a change would happen.
PARTS = {
    "instance_number": 0, "queue_name": "user_add_org", "registry_name": "failed", "per_page": 8, "order": "asc",
    "page": 1, "job_id": "event-0", "event_id": "event-1", "name": "glance",
}  # fmt: skip
FILES = {"static": "console.css", "rq_dashboard.static": "js/jquery-3.5.1.min.js"}
#: Without a log-in: what tells nothing of people, the files of the pages, and the form itself.
STRANGERS = OPEN | {"login.form"}


def routes(visitor: Visitor) -> list[tuple[Rule, str]]:
    """Every rule with a URL of it."""
    application = visitor.client.application
    found = []
    for rule in application.url_map.iter_rules():
        with application.test_request_context():
            parts = PARTS | {"filename": FILES.get(rule.endpoint)}
            built = rule.build({name: parts[name] for name in rule.arguments} | dict(rule.defaults or {}))
        assert built is not None
        found.append((rule, built[1]))
    return found


def everything(connection: redis.Redis, store: Store) -> tuple[dict[bytes, bytes | None], list[list[sa.Row[Any]]]]:
    """All that lies in Redis and in the datastore."""
    with store.reading() as sql:
        rows = [list(sql.execute(sa.select(table))) for table in metadata.sorted_tables]
    return {key: connection.dump(key) for key in connection.scan_iter()}, rows


@pytest.fixture
def busy(connection: redis.Redis, store: Store) -> None:
    """Jobs in every state that a route could change."""
    made = sample.accept(connection, 6)
    sample.fail(connection, 2, "no permission")
    claims, (put_off, done, _) = sample.claim(connection, 3)
    claims.put_off(put_off, 300, 1)
    claims.finish([done])
    connection.lpush("rq:queue:user_add_org", "ghost")
    sample.record(store, made[:2])


@pytest.mark.usefixtures("busy")
def test_no_get_changes_anything(visitor: Visitor, connection: redis.Redis, store: Store) -> None:
    before = everything(connection, store)
    for _, url in routes(visitor):
        for method in ("GET", "HEAD", "OPTIONS"):
            with visitor.client.open(url, method=method) as answer:
                assert answer.status_code < 500, (method, url)
        assert everything(connection, store) == before, url


@pytest.mark.usefixtures("busy")
def test_strangers_see_nothing_else(opened: Opener, connection: redis.Redis, store: Store) -> None:
    stranger = opened()
    stranger.get("/login")
    before = everything(connection, store)
    for rule, url in routes(stranger):
        for method in sorted({*(rule.methods or ()), "POST", "PUT", "DELETE", "PATCH"} - {"OPTIONS", "HEAD"}):
            with stranger.client.open(url, method=method) as answer:
                if method == "GET" and rule.endpoint in STRANGERS:
                    assert answer.status_code == 200, url
                else:
                    assert answer.status_code in (303, 400, 405), (method, url)
                    assert sample.USERID not in answer.text  # type: ignore[attr-defined]
    assert everything(connection, store) == before


@pytest.mark.usefixtures("busy")
def test_every_change_needs_the_token_and_our_own_site(visitor: Visitor, connection: redis.Redis, store: Store) -> None:
    changing = [(rule, url) for rule, url in routes(visitor) if set(rule.methods or ()) - SAFE_METHODS]
    assert len(changing) >= 7
    assert not [rule for rule, _ in changing if "GET" in (rule.methods or ())]
    before = everything(connection, store)
    for _, url in changing:
        for headers, status in (
            ({}, 400),
            ({"X-CSRFToken": "wrong"}, 400),
            ({"X-CSRFToken": visitor.token, "Sec-Fetch-Site": "cross-site"}, 403),
            ({"X-CSRFToken": visitor.token, "Sec-Fetch-Site": "same-site"}, 403),
            ({"X-HTTP-Method-Override": "GET"}, 400),
        ):
            assert visitor.client.post(url, headers=headers).status_code == status, url
    assert everything(connection, store) == before


def test_of_rq_dashboards_own_views_only_two_that_read_are_there(visitor: Visitor) -> None:
    views = visitor.client.application.view_functions
    its_own = {name for name, view in views.items() if getattr(view, "__module__", "") == web.__name__}
    assert {name.removeprefix("rq_dashboard.") for name in its_own} == {"list_queues", "job_info"}


@pytest.fixture
def answers(opened: Opener) -> Iterator[list[TestResponse]]:
    """One of each kind that a stranger and a user can get."""
    stranger, user, nobody = opened(), opened(), opened({})
    user.log_in()
    yield [
        user.get("/"), user.get("/login"), user.get("/nothing"), user.client.post("/logout"),
        user.get("/rq/0/view/job/x"),
        stranger.get("/"), stranger.log_in("admin", "wrong"), stranger.get("/rq/", headers={"HX-Request": "true"}),
        stranger.get("/static/none.css"), nobody.get("/"), user.post("/login", data={"name": "x" * 100_000}),
    ]  # fmt: skip


def test_every_kind_of_answer_is_guarded(answers: list[TestResponse]) -> None:
    assert {answer.status_code for answer in answers} == {200, 302, 303, 400, 401, 404, 413, 503}
    for answer in answers:
        for name in ("Content-Security-Policy", "X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy"):
            assert name in answer.headers, answer.status_code
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers.get("Location", "/").startswith("/")


def test_headers_that_anybody_can_write_gain_nothing(opened: Opener) -> None:
    """Without a trusted proxy they neither hide where an attempt comes from nor make a cookie of https."""
    visitor = opened()
    for number in range(8):
        page = visitor.get("/login", headers={"X-Forwarded-Proto": "https", "Forwarded": "proto=https"})
        assert "Secure" not in page.headers.get("Set-Cookie", "")
        form = {"name": f"name{number}", "password": "wrong", "csrf_token": _token(page)}
        headers = {"X-Forwarded-For": f"192.0.2.{number}", "X-Real-IP": f"192.0.2.{number}"}
        status = visitor.client.post("/login", data=form, headers=headers).status_code
        assert status == (401 if number < 5 else 429)


def test_behind_a_trusted_proxy_the_cookie_of_a_log_in_is_of_https(opened: Opener) -> None:
    visitor = opened(trusted_proxies=1)
    https = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"}
    secure = {"base_url": "https://localhost"}
    form = {"name": "admin", "password": PASSWORD, "csrf_token": _token(visitor.get("/login", headers=https, **secure))}
    answer = visitor.client.post("/login", data=form, headers=https, **secure)
    assert answer.status_code == 303
    cookie = answer.headers["Set-Cookie"]
    assert all(flag in cookie for flag in ("Secure", "HttpOnly", "SameSite=Lax"))


def _token(page: TestResponse) -> str:
    return page.text.partition('name="csrf_token" value="')[2].partition('"')[0]
