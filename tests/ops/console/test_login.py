"""Nobody gets in who should not, and a session ends when it should."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis
from itsdangerous import TimestampSigner

from bridge.embedded import NO_RETRY
from ops.console.sessions import LIFETIME
from tests.ops.console.visitor import PASSWORD, Opener, Visitor, csrf

PAGES = ("/", "/parts/glance", "/events/event-1", "/rq/", "/rq/0/view/jobs", "/rq/0/data/queues.json", "/nothing")
CHANGES = ("/logout", "/rq/requeue/user_add_org", "/rq/job/event-1/requeue", "/rq/job/event-1/delete")


@pytest.mark.parametrize("page", PAGES)
def test_strangers_are_sent_to_the_form(opened: Opener, page: str) -> None:
    answer = opened().get(page)
    assert (answer.status_code, answer.location.partition("?")[0]) == (303, "/login")


@pytest.mark.parametrize("header", [{"HX-Request": "true"}, {"X-Requested-With": "XMLHttpRequest"}])
def test_strangers_scripts_are_told(opened: Opener, header: dict[str, str]) -> None:
    answer = opened().get("/rq/0/data/queues.json", headers=header)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/login")


def test_a_user_gets_where_they_wanted(opened: Opener) -> None:
    visitor = opened()
    assert visitor.get("/rq/0/view/jobs?a=b").location == "/login?next=/rq/0/view/jobs?a%3Db"
    assert visitor.log_in(next="/rq/0/view/jobs?a=b").location == "/rq/0/view/jobs?a=b"
    assert visitor.get("/").status_code == 200
    assert visitor.get("/login?next=/rq/").location == "/rq/"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example/",
        "/\\evil.example/",
        "\\\\evil.example",
        "/\t/evil.example",
        " //evil.example",
        "javascript:alert(1)",
        "evil",
        "",
    ],
)
def test_no_login_leads_elsewhere(opened: Opener, target: str) -> None:
    visitor = opened()
    assert visitor.log_in(next=target).location == "/"
    assert visitor.get("/login", query_string={"next": target}).location == "/"


@pytest.mark.parametrize(("name", "password"), [("admin", "wrong"), ("nobody", PASSWORD), ("bob", PASSWORD), ("", "")])
def test_a_wrong_name_or_password_reads_the_same(opened: Opener, name: str, password: str) -> None:
    visitor = opened()
    answer = visitor.log_in(name, password)
    assert (answer.status_code, "Name or password is wrong." in answer.text) == (401, True)
    assert visitor.get("/").status_code == 303


def test_the_cookie_is_guarded(opened: Opener) -> None:
    cookie = opened().log_in().headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Secure" not in cookie
    assert f"Max-Age={round(LIFETIME.total_seconds())}" in cookie.replace("max-age", "Max-Age") or "Expires=" in cookie


def test_behind_a_proxy_the_cookie_is_of_https_and_of_the_prefix(opened: Opener) -> None:
    visitor = opened(trusted_proxies=1)
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Prefix": "/console", "X-Forwarded-For": "192.0.2.7"}
    page = visitor.get("/login", headers=headers)
    assert "Secure" in page.headers["Set-Cookie"]
    assert "Path=/console" in page.headers["Set-Cookie"]
    assert 'action="/console/login"' in page.text
    assert visitor.get("/", headers=headers).location == "/console/login?next=/"


def test_logging_in_rotates_the_session(opened: Opener) -> None:
    visitor = opened()
    before = csrf(visitor.get("/login"))
    visitor.log_in()
    assert visitor.token != before
    assert visitor.client.post("/logout", data={"csrf_token": before}).status_code == 400


def test_a_login_from_elsewhere_is_refused(opened: Opener) -> None:
    visitor = opened()
    form = {"name": "admin", "password": PASSWORD}
    assert visitor.client.post("/login", data=form).status_code == 400
    form["csrf_token"] = csrf(visitor.get("/login"))
    cross = visitor.client.post("/login", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert cross.status_code == 403
    assert visitor.client.post("/login", data=form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_logging_out_is_a_post_and_ends_copies_of_the_cookie_too(visitor: Visitor) -> None:
    cookie = visitor.client.get_cookie("dingbridge_console")
    assert cookie is not None
    assert visitor.get("/logout").status_code == 405
    assert visitor.post("/logout").location == "/login"
    assert visitor.get("/").status_code == 303
    visitor.client.set_cookie("dingbridge_console", cookie.value)
    assert visitor.get("/").status_code == 303


def test_a_session_ends_with_its_time_however_busy(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    visitor = opened()
    begun = int(time.time() - LIFETIME.total_seconds())
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: begun + 30)
    visitor.log_in()
    monkeypatch.undo()
    assert visitor.get("/").status_code == 200
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: begun - 30)
    visitor.log_in("bob", "another one")
    monkeypatch.undo()
    assert visitor.get("/").status_code == 303


def test_a_session_outlives_a_restart_but_no_change_of_its_password(opened: Opener) -> None:
    visitor = opened()
    visitor.log_in()
    cookie = visitor.client.get_cookie("dingbridge_console")
    assert cookie is not None
    for users, status in (
        ({"admin": PASSWORD}, 200),
        ({"admin": "changed"}, 303),
        ({"bob": PASSWORD}, 303),
    ):
        again = opened(users)
        again.client.set_cookie("dingbridge_console", cookie.value)
        assert again.get("/").status_code == status


def test_a_forged_cookie_is_nobody(opened: Opener, visitor: Visitor) -> None:
    cookie = visitor.client.get_cookie("dingbridge_console")
    assert cookie is not None
    stranger = opened()
    stranger.client.set_cookie("dingbridge_console", cookie.value[:-4] + "AAAA")
    assert stranger.get("/").status_code == 303


@pytest.mark.parametrize("path", CHANGES)
def test_every_change_needs_the_token(visitor: Visitor, path: str) -> None:
    for headers in ({}, {"X-CSRFToken": "wrong"}, {"X-CSRFToken": ""}):
        assert visitor.client.post(path, headers=headers).status_code == 400
    cross = {"X-CSRFToken": visitor.token, "Sec-Fetch-Site": "cross-site"}
    assert visitor.client.post(path, headers=cross).status_code == 403
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize("path", CHANGES)
def test_no_change_is_a_get(visitor: Visitor, path: str) -> None:
    assert visitor.get(path).status_code == 405


def test_where_nobody_is_configured_nobody_gets_in(opened: Opener) -> None:
    visitor = opened({})
    for page in (*PAGES, "/login"):
        answer = visitor.get(page)
        assert (answer.status_code, answer.text.count("\n")) == (503, 1)
        assert "console.users" in answer.text
    assert visitor.client.post("/login", data={}).status_code == 503
    assert visitor.get("/healthz").status_code == 200


def test_five_failures_have_to_wait_whoever_asks_next(opened: Opener) -> None:
    visitor = opened()
    for _ in range(5):
        assert visitor.log_in("admin", "wrong").status_code == 401
    for name, password, address in (
        ("admin", PASSWORD, "127.0.0.1"),
        ("admin", PASSWORD, "192.0.2.1"),
        ("bob", "another one", "127.0.0.1"),
    ):
        answer = opened().log_in(name, password, environ_overrides={"REMOTE_ADDR": address})
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 5
        assert "Too many attempts: try again in" in answer.text
    other = opened().log_in("bob", "another one", environ_overrides={"REMOTE_ADDR": "192.0.2.1"})
    assert other.status_code == 303


def test_a_success_forgets_what_failed_before(opened: Opener) -> None:
    visitor = opened()
    for _ in range(2):
        for _ in range(4):
            assert visitor.log_in("admin", "wrong").status_code == 401
        assert visitor.log_in().status_code == 303
        visitor.post("/logout")


def test_many_at_once_get_no_more_tries_than_one_by_one(opened: Opener) -> None:
    visitors = [opened() for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda visitor: visitor.log_in("admin", "wrong").status_code, visitors))
    assert sorted(answers) == [401] * 5 + [429] * 11


def test_while_redis_is_away_nobody_can_log_in(opened: Opener) -> None:
    nowhere = redis.Redis(unix_socket_path="/nonexistent", retry=NO_RETRY)
    answer = opened(at=nowhere).get("/login")
    assert (answer.status_code, answer.text.partition(".")[0]) == (503, "Redis does not answer")


def test_secrets_are_on_no_page_and_in_no_log(opened: Opener, capsys: pytest.CaptureFixture[str]) -> None:
    visitor = opened()
    visitor.log_in("admin", "a-wrong-one")
    visitor.log_in("my-password-in-the-wrong-field", "x")
    visitor.log_in()
    seen = visitor.get("/").text + "".join(capsys.readouterr())
    assert "logged in" in seen
    for secret in (PASSWORD, "a-wrong-one", "my-password-in-the-wrong-field"):
        assert secret not in seen
