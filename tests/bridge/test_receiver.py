"""The receiver beside its callbacks: paths and methods, health, metrics, proxies, and what it says without Redis."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import redis
from flask import Flask, request
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from tests.bridge.callbacks import Callback, untouched
from tests.bridge.requests import SECRETS, post, refusal_counts, refused, taken
from tests.bridge.wsgi import many_apps, receiver
from tests.servers import running_redis


def make(redis_url: str, var: Path) -> Flask:
    return receiver(many_apps(redis_url, var))


class TestPaths:
    @pytest.mark.parametrize("app", ["unknown", "Acme", "acme ", "acme%00", "..", "callback"])
    def test_no_such_app(self, http: FlaskClient, connection: redis.Redis, app: str) -> None:
        refused(post(http, Callback(app=app)), 404)
        assert untouched(connection)
        assert refusal_counts(http) == {("none", "404"): 1}

    @pytest.mark.parametrize(
        "path", ["/", "/callback", "/callback/", "/callback//acme", "/callback/acme//", "/callback/acme/x"]
    )
    def test_no_such_path(self, http: FlaskClient, path: str) -> None:
        callback = Callback()
        callback.path = path
        refused(post(http, callback), 404)

    @pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
    @pytest.mark.parametrize("end", ["", "/"])
    def test_not_a_post(self, http: FlaskClient, connection: redis.Redis, method: str, end: str) -> None:
        callback = Callback()
        callback.path += end
        response = http.open(callback.url, method=method, data=callback.body)
        refused(response, 405)
        assert response.headers["Allow"] == "POST"
        assert http.head(callback.url).status_code == 405
        assert untouched(connection)

    def test_a_post_where_there_is_only_something_to_read(self, http: FlaskClient) -> None:
        for path in ("/healthz", "/readyz", "/metrics"):
            refused(http.post(path), 405)

    def test_a_strangers_path_makes_no_label(self, http: FlaskClient) -> None:
        for number in range(20):
            http.post(f"/callback/stranger{number}")
            http.get(f"/{number}")
        assert refusal_counts(http) == {("none", "404"): 40}


class TestHealth:
    def test_while_all_is_well(self, http: FlaskClient) -> None:
        for path in ("/healthz", "/readyz"):
            response = http.get(path)
            assert (response.status_code, response.mimetype) == (200, "application/json")
        ready = http.get("/readyz").json
        assert ready is not None and ready["components"]["redis"] == "up"

    def test_metrics_are_prometheus_text(self, http: FlaskClient) -> None:
        taken(http, Callback())
        response = http.get("/metrics")
        assert (response.status_code, response.mimetype) == (200, "text/plain")
        names = {family.name for family in text_string_to_metric_families(response.text)}
        assert names >= {"dingbridge_events", "dingbridge_callbacks_refused", "dingbridge_callback_seconds"}
        assert not [secret for secret in SECRETS if secret in response.text]


@pytest.fixture
def no_disk(tmp_path: Path) -> Path:
    """A `var` in which nothing can be written: nothing but Redis can take an event."""
    path = tmp_path / "var"
    path.write_text("a file where the folder belongs")
    return path


class TestWithoutRedis:
    """Neither Redis nor this host's disk takes anything."""

    def unavailable(self, http: FlaskClient) -> None:
        begun = time.perf_counter()
        response = post(http, Callback())
        assert time.perf_counter() - begun < 1
        refused(response, 503)
        begun = time.perf_counter()
        ready = http.get("/readyz")
        assert time.perf_counter() - begun < 1
        assert ready.status_code == 503 and json.loads(ready.data)["components"]["redis"] == "down"
        assert http.get("/healthz").status_code == 200
        assert refusal_counts(http)["acme", "503"] >= 1

    def test_a_server_that_is_gone(self, no_disk: Path) -> None:
        with running_redis() as url:
            http = make(url, no_disk).test_client()
            assert taken(http, Callback()) == "success"
        for _ in range(3):
            self.unavailable(http)

    def test_a_server_that_hangs(self, no_disk: Path) -> None:
        with running_redis() as url, redis.Redis.from_url(url) as direct:
            http = make(url, no_disk).test_client()
            pid = direct.info("server")["process_id"]
            os.kill(pid, signal.SIGSTOP)
            try:
                self.unavailable(http)
            finally:
                os.kill(pid, signal.SIGCONT)

    def test_with_a_spool_it_is_ready_and_takes_events(self, tmp_path: Path) -> None:
        http = make(f"unix://{tmp_path}/none.sock", tmp_path / "var").test_client()
        ready = http.get("/readyz")
        assert ready.status_code == 200
        assert json.loads(ready.data)["components"] == {"redis": "down", "spool": "up"}
        assert taken(http, Callback()) == "success"
        assert len(list((tmp_path / "var" / "spool").glob("*.spool"))) == 1

    def test_a_server_that_comes_back(self, no_disk: Path) -> None:
        with running_redis() as url, redis.Redis.from_url(url) as direct:
            http = make(url, no_disk).test_client()
            direct.config_set("maxmemory", 1)
            refused(post(http, Callback()), 503)
            assert untouched(direct)
            direct.config_set("maxmemory", 0)
            assert taken(http, Callback()) == "success"
            assert direct.llen("rq:queue:user_add_org") == 1

    def test_checks_need_no_redis(self, no_disk: Path) -> None:
        http = make(f"unix://{no_disk}.sock", no_disk).test_client()
        assert taken(http, Callback({"EventType": "check_url"})) == "success"

    def test_what_is_refused_needs_none_either(self, no_disk: Path) -> None:
        http = make(f"unix://{no_disk}.sock", no_disk).test_client()
        refused(post(http, Callback(token="x")), 403)


class TestBehindProxies:
    @pytest.mark.parametrize("hops", [0, 1])
    def test_a_prefix_is_believed_only_from_trusted_ones(self, redis_url: str, tmp_path: Path, hops: int) -> None:
        config = many_apps(redis_url, tmp_path / "var")
        app = receiver(config.model_copy(update={"trusted_proxies": hops}))
        seen: list[tuple[str, str | None]] = []

        @app.before_request
        def look() -> None:
            seen.append((request.script_root, request.remote_addr))

        headers = {"X-Forwarded-For": "203.119.0.1", "X-Forwarded-Prefix": "/bridge"}
        assert app.test_client().get("/healthz", headers=headers).status_code == 200
        assert taken(app.test_client(), Callback(), headers=headers) == "success"
        assert seen == [("/bridge", "203.119.0.1") if hops else ("", "127.0.0.1")]
