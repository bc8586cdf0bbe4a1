"""The receiver under a real gunicorn with two processes: paths as they stand, chunked bodies, concurrency, metrics."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bridge.callbacks import MAX_BODY
from tests.bridge.callbacks import EVENT, Callback, untouched
from tests.installation import answers, settings
from tests.servers import free_port, missing, wait_until

ROOT = Path(__file__).parent.parent.parent


class Answer(NamedTuple):
    status: int
    content_type: str | None
    location: str | None
    body: bytes


class Server(NamedTuple):
    """A running gunicorn."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def request(self, method: str, target: str, body: bytes = b"", chunk: int = 0) -> Answer:
        """One request as it is written here; a body in chunks of that many bytes, or with its length."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            if chunk:
                parts = (body[at : at + chunk] for at in range(0, len(body), chunk))
                headers = {"Transfer-Encoding": "chunked"}
                connection.request(method, target, parts, headers, encode_chunked=True)
            else:
                connection.request(method, target, body)
            response = connection.getresponse()
            headers_ = response.headers
            return Answer(response.status, headers_["Content-Type"], headers_["Location"], response.read())
        finally:
            connection.close()

    def accepted(self, app: str) -> float:
        return self.counted("dingbridge_events_total", outcome="accepted", app=app)

    def refused(self, status: int) -> float:
        return self.counted("dingbridge_callbacks_refused_total", status=str(status), app="none")

    def counted(self, name: str, **labels: str) -> float:
        text = self.request("GET", "/metrics").body.decode()
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return sum(found.value for found in samples if found.name == name and labels.items() <= found.labels.items())

    def say(self, text: bytes) -> bytes:
        """All that is answered to these bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as sender:
            sender.sendall(text)
            return b"".join(iter(lambda: sender.recv(65536), b""))


@pytest.fixture(scope="module")
def server(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("gunicorn")
    (folder / "metrics").mkdir()
    given = settings(redis={"url": redis_server}, var=str(folder / "var"))
    given["apps"].append(given["apps"][0] | {"name": "counted"})
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    environment = os.environ | {
        "BRIDGE_CONFIG": str(folder / "config.yaml"),
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "PYTHONPATH": str(ROOT),
    }
    port = free_port()
    options = [
        "--workers",
        "2",
        "--worker-class",
        "ops.gather.Gatherer",
        "--threads",
        "8",
        "--bind",
        f"127.0.0.1:{port}",
    ]
    command = [sys.executable, "-m", "gunicorn", *options, "tests.bridge.wsgi:create()"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 20, "gunicorn")
        yield Server(port, process, folder / "log")
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.mark.parametrize("chunk", [0, 7, 64])
@pytest.mark.parametrize("end", ["", "/"])
def test_a_callback_is_taken(server: Server, connection: redis.Redis, end: str, chunk: int) -> None:
    callback = Callback()
    callback.path += end
    answer = server.request("POST", callback.url, callback.body, chunk)
    assert (answer.status, answer.content_type, answer.location) == (200, "application/json", None)
    assert callback.plain(answer.body) == "success"
    assert connection.llen("rq:queue:user_add_org") == 1


@pytest.mark.parametrize("over", [1, 1 << 18])
@pytest.mark.parametrize("chunk", [0, 1 << 16])
def test_a_body_that_is_too_large(server: Server, connection: redis.Redis, chunk: int, over: int) -> None:
    callback = Callback()
    body = callback.body + b" " * (MAX_BODY + over - len(callback.body))
    answer = server.request("POST", callback.url, body, chunk)
    assert (answer.status, answer.content_type) == (413, "application/json")
    assert set(json.loads(answer.body)) == {"error"}
    assert untouched(connection)


@pytest.mark.parametrize("body", [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}--\r\n0\r\n\r\n", b"-2\r\n{}\r\n"])
def test_chunks_that_are_none(server: Server, body: bytes) -> None:
    head = f"POST {Callback().url} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sender:
        sender.sendall(head.encode() + body)
        received = sender.recv(65536)
    assert received.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        (400, b"<secret> / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/secret\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nsecret\r\n\r\n"),
        (414, b"GET /" + b"secret" * 1000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        (417, b"POST / HTTP/1.1\r\nHost: x\r\nExpect: secret\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"secret" * 2000 + b"\r\n\r\n"),
        (501, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: secret\r\n\r\n"),
    ],
)
def test_what_gunicorn_refuses_is_refused_as_by_us(server: Server, status: int, text: bytes) -> None:
    before = server.refused(status)
    head, _, body = server.say(text).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"Content-Type: application/json" in head
    assert f"Content-Length: {len(body)}".encode() in head and b"Connection: close" in head
    told = json.loads(body)
    assert set(told) == {"error"} and told["error"] and b"\n" not in body
    assert server.refused(status) == before + 1
    log = server.log.read_text()
    assert f"status={status}" in log and "secret" not in log and "Invalid request" not in log


@pytest.mark.parametrize("chunk", [0, 1 << 16])
def test_the_largest_body(server: Server, connection: redis.Redis, chunk: int) -> None:
    callback = Callback()
    body = callback.body + b" " * (MAX_BODY - len(callback.body))
    assert server.request("POST", callback.url, body, chunk).status == 200
    assert connection.llen("rq:queue:user_add_org") == 1


@pytest.mark.parametrize("path", ["/callback//acme", "/callback/acme//", "/callback/./acme", "/callback"])
def test_other_paths_are_not_found_and_never_redirected(server: Server, path: str) -> None:
    callback = Callback()
    callback.path = path
    answer = server.request("POST", callback.url, callback.body)
    assert (answer.status, answer.content_type, answer.location) == (404, "application/json", None)


def test_two_slashes_in_front_make_no_redirect(server: Server, connection: redis.Redis) -> None:
    """gunicorn takes them for one."""
    callback = Callback()
    callback.path = "//callback/acme"
    answer = server.request("POST", callback.url, callback.body)
    assert (answer.status, answer.location) == (200, None)
    assert connection.llen("rq:queue:user_add_org") == 1


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_only_post(server: Server, method: str) -> None:
    answer = server.request(method, Callback().url)
    assert (answer.status, answer.content_type) == (405, "application/json")


def test_many_at_once_all_processes_added_up(server: Server, connection: redis.Redis) -> None:
    before = server.accepted("counted")

    def send(number: int) -> bool:
        callback = Callback(EVENT | {"eventId": f"e-{number % 100}"}, app="counted")
        answer = server.request("POST", callback.url, callback.body)
        return answer.status == 200 and callback.plain(answer.body) == "success"

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(send, range(200)))
    assert connection.llen("rq:queue:user_add_org") == 100
    assert server.accepted("counted") - before == 100
    assert {server.accepted("counted") for _ in range(10)} == {before + 100}


def test_a_killed_process_is_replaced_and_nothing_is_lost(server: Server, connection: redis.Redis) -> None:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    if not children.exists():
        missing("Linux, which tells a process's children,")
    for child in children.read_text().split():
        callback = Callback(EVENT | {"eventId": f"e-{child}"})
        assert server.request("POST", callback.url, callback.body).status == 200
        os.kill(int(child), signal.SIGKILL)
    wait_until(lambda: answers(f"http://127.0.0.1:{server.port}/readyz"), what="another process")
    assert connection.llen("rq:queue:user_add_org") == 2
