"""Every answer is guarded, nothing comes from elsewhere, and what is away is told."""

import re
from collections.abc import Iterable
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest
import redis

from ops.console import app
from tests.ops.console import sample
from tests.ops.console.visitor import Opener, Visitor
from tests.servers import running_redis

PAGES = ("/", "/login", "/rq/", "/rq/0/view/jobs", "/rq/0/view/workers", "/nothing", "/healthz", "/metrics")


@pytest.mark.parametrize("page", PAGES)
def test_headers(visitor: Visitor, page: str) -> None:
    headers = visitor.get(page).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert ("unsafe-eval" in policy) == page.startswith("/rq")
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"


def test_the_nonce_is_another_each_time(visitor: Visitor) -> None:
    first, second = visitor.get("/rq/"), visitor.get("/rq/")
    nonces = [re.findall(r'<script nonce="([^"]+)"', answer.text) for answer in (first, second)]
    assert len(nonces[0]) == 1
    assert nonces[0] != nonces[1]
    assert f"'nonce-{nonces[0][0]}'" in first.headers["Content-Security-Policy"]


@pytest.mark.parametrize("page", ["/", "/login", "/rq/", "/rq/0/view/jobs", "/rq/0/view/workers", "/nothing"])
def test_every_file_is_our_own_and_is_there(visitor: Visitor, page: str) -> None:
    text = visitor.get(page).text
    files = re.findall(r'(?:src|<link[^>]+href)="([^"]+)"', text)
    assert files or page == "/login"
    for file in files:
        assert file.startswith("/")
        with visitor.get(file) as answer:
            assert answer.status_code == 200


def test_the_licence_of_what_others_wrote_is_shipped() -> None:
    static = Path(app.__file__).parent / "static"
    licences = (static / "LICENSES.txt").read_text()
    assert all(file.name in licences for file in static.glob("*.min.js"))


@pytest.mark.parametrize("prefix", ["", "/ding/console"])
def test_behind_a_proxy_every_link_has_the_prefix(opened: Opener, connection: redis.Redis, prefix: str) -> None:
    visitor = opened(trusted_proxies=1)
    console = visitor.client.application.wsgi_app

    def proxy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"].removeprefix(prefix)
        return console({**environ, "PATH_INFO": path, "HTTP_X_FORWARDED_PREFIX": prefix}, start_response)

    visitor.client.application.wsgi_app = proxy  # type: ignore[method-assign]
    visitor.prefix = prefix
    sample.accept(connection, 3)
    assert visitor.log_in().location == f"{prefix}/"
    for page in ("/", "/rq/", "/rq/0/view/jobs/user_add_org/queued/8/asc/1", "/rq/0/view/job/event-1"):
        links = re.findall(r'(?:src|href|action|hx-get)="([^"<]+)"', visitor.get(page).text)
        inside = [link for link in links if link.startswith("/")]
        assert inside
        assert all(link.startswith(f"{prefix}/") for link in inside)
    assert f'var url = "{prefix}/rq/"' in visitor.get("/rq/").text
    data = visitor.get("/rq/0/data/queues.json").json
    assert data
    assert all(queue["failed_url"].startswith(f"{prefix}/rq/0/view/jobs/") for queue in data["queues"])


def test_a_stranger_on_the_way_sets_no_prefix(opened: Opener) -> None:
    answer = opened().get("/", headers={"X-Forwarded-Prefix": "/evil", "X-Forwarded-Proto": "https"})
    assert answer.location == "/login?next=/"


def test_health_needs_no_login(opened: Opener) -> None:
    answer = opened().get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "up"})


def test_a_redis_that_goes_away_is_told_and_what_is_left_is_shown(opened: Opener) -> None:
    with running_redis() as url, redis.Redis.from_url(url) as doomed:
        visitor = opened(at=doomed)
        visitor.log_in()
    front = visitor.get("/")
    assert front.status_code == 200
    assert "Redis does not answer" in front.text
    assert "No event was applied yet" in front.text
    assert visitor.get("/parts/queues").status_code == 200
    for page in ("/rq/0/view/jobs", "/events/event-1"):
        answer = visitor.get(page)
        assert (answer.status_code, "Redis does not answer" in answer.text) == (503, True)
    data = visitor.get("/rq/0/data/queues.json", headers={"X-Requested-With": "XMLHttpRequest"})
    assert (data.status_code, data.mimetype) == (503, "text/plain")
    assert visitor.get("/healthz").status_code == 200
    assert visitor.post("/logout").status_code == 503
    assert visitor.get("/").status_code == 303


def test_an_error_is_one_line(visitor: Visitor) -> None:
    page = visitor.get("/nothing")
    assert (page.status_code, page.mimetype) == (404, "text/html")
    plain = visitor.get("/nothing", headers={"HX-Request": "true"})
    assert (plain.status_code, plain.mimetype, plain.text.count("\n")) == (404, "text/plain", 1)
    assert visitor.post("/login", data={"name": "x" * 100_000}).status_code == 413
