"""The receiver's processes share what knocks at their port, and keep no thread for who says nothing."""

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from ops import web
from ops.web import WebServer, Worker
from tests.installation import ROOT, answers
from tests.servers import free_port, missing, wait_until


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port at which one knocks; as gunicorn's it does not block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with socket.create_connection(server.getsockname()):
            yield server


class Noting(Worker):
    """Only notes what it takes."""

    taken: list[Any]

    def enqueue_req(self, conn: Any) -> None:
        self.taken.append(conn)


@contextmanager
def worker(listener: socket.socket, connections: int) -> Iterator[Noting]:
    """One that has so many connections."""
    cfg = WebServer(lambda: Flask(__name__), "127.0.0.1", 1, 2, 4, {}).cfg
    made = Noting(1, os.getpid(), [listener], None, 30, cfg, Logger(cfg))
    made.nr_conns = connections
    made.taken = []
    try:
        yield made
    finally:
        made.tmp.close()


#: A server of one process, with an app that shows a folder, how it was asked, and takes its time where it is told to.
PROGRAM = """
import json, resource, sys, time
from flask import Flask, request
from ops import web
port, threads, folder, changed, extra, files = json.loads(sys.argv[1])
for name, value in changed.items():
    setattr(web, name, value)
if files:
    resource.setrlimit(resource.RLIMIT_NOFILE, files)
app = Flask("x", static_folder=folder, static_url_path="/static")

@app.get("/scheme")
def scheme():
    return request.scheme

@app.get("/slow/<float:seconds>")
def slow(seconds):
    time.sleep(seconds)
    return "slow"

web.WebServer(lambda: app, "127.0.0.1", port, 1, threads, extra).run()
"""


@contextmanager
def serving(
    threads: int = 2,
    folder: Path = ROOT,
    extra: Mapping[str, Any] | None = None,
    files: tuple[int, int] | None = None,
    **changed: float,
) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server of one process, with these of `ops.web`'s limits and of open files; its port and its master."""
    port = free_port()
    arguments = json.dumps([port, threads, str(folder), changed, dict(extra or {}), files])
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, arguments], cwd=ROOT)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/scheme"), 20, "the server")
        yield port, process
    finally:
        process.terminate()
        process.wait(10)


def ask(port: int, stack: contextlib.ExitStack, request: bytes) -> socket.socket:
    """A connection on which this was said."""
    client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    client.settimeout(10)
    client.sendall(request)
    return client


def knocks(port: int) -> bool:
    """Whether anybody takes a connection."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def waits(monkeypatch: pytest.MonkeyPatch, listener: socket.socket, connections: int) -> float:
    """Seconds that a process waits before it takes another one."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    with worker(listener, connections) as one:
        one.accept(listener)
    (taken,) = one.taken
    taken.sock.close()
    return sum(waited)


def test_who_has_more_connections_waits_longer(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()):
        assert waits(monkeypatch, listener, 0) == 0 < waits(monkeypatch, listener, 1)


def test_nobody_waits_long(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    assert waits(monkeypatch, listener, 1000) == web.HANDICAP_MOST


def test_a_sibling_may_be_faster(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    sibling: list[socket.socket] = []
    monkeypatch.setattr(time, "sleep", lambda _seconds: sibling.append(listener.accept()[0]))
    with worker(listener, 3) as busy:
        busy.accept(listener)
        assert (len(sibling), busy.taken, busy.nr_conns) == (1, [], 3)
    sibling[0].close()


def test_silent_connections_hold_nobody_up() -> None:
    with serving() as (port, _), contextlib.ExitStack() as stack:
        silent = [ask(port, stack, b"") for _ in range(8)]
        # It asks for two seconds; gunicorn's own would wait for five.
        assert answers(f"http://127.0.0.1:{port}/scheme")
        # Who has said nothing so far may still do so.
        silent[0].sendall(b"GET /scheme HTTP/1.1\r\nHost: x\r\n\r\n")
        silent[0].settimeout(4)
        assert silent[0].recv(15) == b"HTTP/1.1 200 OK"


def test_a_busy_process_says_once_a_second_that_it_lives(
    monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    told: list[float] = []
    with worker(listener, 0) as one:
        monkeypatch.setattr(one.tmp, "notify", lambda: told.append(now))
        for _ in range(17):
            one.notify()
            now += web.HEARTBEAT_SECONDS / 8
    assert len(told) == 3


def test_who_does_not_end_a_closed_connection_holds_nobody_up() -> None:
    with serving() as (port, _), contextlib.ExitStack() as stack:
        for _ in range(2 * web.CLOSERS):
            begun = time.monotonic()
            lingering = ask(port, stack, b"GET /scheme HTTP/1.0\r\n\r\n")
            while lingering.recv(65536):
                pass  # and does not close its own side
            assert time.monotonic() - begun < 1
            begun = time.monotonic()
            assert answers(f"http://127.0.0.1:{port}/scheme")
            # gunicorn's own would answer nobody until two seconds are over.
            assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    "begun",
    [b"GET /scheme HTTP/1.1\r\nHost", b"POST /static/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"],
)
def test_who_does_not_go_on_keeps_no_thread(begun: bytes) -> None:
    with serving(REQUEST_SECONDS=0.5) as (port, _), contextlib.ExitStack() as stack:
        stalled = [ask(port, stack, begun) for _ in range(4)]
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/scheme"), 10, "a thread")
        for client in stalled:
            while client.recv(65536):
                pass


@pytest.mark.parametrize("sendfile", [True, False])
def test_who_does_not_read_its_answer_keeps_no_thread(tmp_path: Path, sendfile: bool) -> None:
    with (tmp_path / "long").open("wb") as file:
        file.truncate(1 << 26)
    limits = {"REQUEST_SECONDS": 0.5, "ANSWER_SECONDS": 1.0}
    extra = {"sendfile": sendfile}
    with serving(folder=tmp_path, extra=extra, **limits) as (port, _), contextlib.ExitStack() as stack:
        for _ in range(4):
            ask(port, stack, b"GET /static/long HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/scheme"), 10, "a thread")


def test_an_answer_may_take_longer_to_be_made() -> None:
    limits = {"REQUEST_SECONDS": 0.2, "ANSWER_SECONDS": 0.4}
    with serving(**limits) as (port, _), contextlib.ExitStack() as stack:
        client = ask(port, stack, b"GET /slow/2.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(15) == b"HTTP/1.1 200 OK"


def test_what_proxies_tell_is_for_the_app_to_believe() -> None:
    """gunicorn's own would believe this host, and refuse what a balancer and an nginx behind it tell differently."""
    with serving() as (port, _), contextlib.closing(HTTPConnection("127.0.0.1", port, timeout=10)) as client:
        client.request("GET", "/scheme", headers={"X-Forwarded-Ssl": "on", "X-Forwarded-Proto": "http"})
        answer = client.getresponse()
        assert (answer.status, answer.read()) == (200, b"http")
        client.request("GET", "/scheme", headers={"X-Forwarded-Proto": "https", "SCRIPT_NAME": "/elsewhere"})
        assert client.getresponse().read() == b"http"


def workers(master: "subprocess.Popen[bytes]") -> str:
    children = Path(f"/proc/{master.pid}/task/{master.pid}/children")
    if not children.exists():
        missing("Linux, which tells a process's children,")
    return children.read_text()


def test_more_connections_than_it_may_have_files_do_not_kill_a_process() -> None:
    with serving(files=(40, 40)) as (port, master):
        before = workers(master)
        with contextlib.ExitStack() as stack:
            for _ in range(60):
                ask(port, stack, b"")
            late = ask(port, stack, b"GET /scheme HTTP/1.1\r\nHost: x\r\n\r\n")
            late.settimeout(0.5)
            with pytest.raises(TimeoutError):
                late.recv(1)
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/scheme"), 10, "room")
        assert workers(master) == before


def test_a_process_that_is_full_ends_without_its_master_too() -> None:
    with serving(files=(40, 40)) as (port, master), contextlib.ExitStack() as stack:
        (worker,) = workers(master).split()
        for _ in range(60):
            ask(port, stack, b"")
        wait_until(lambda: len(list(Path(f"/proc/{worker}/fd").iterdir())) >= 40, 10, "it to be full")
        master.kill()
        wait_until(lambda: not Path(f"/proc/{worker}/fd/0").exists(), 10, "its end")


def test_it_may_have_as_many_files_as_the_system_lets_it() -> None:
    with serving(files=(256, 4096)) as (_, master):
        workers(master)
        limits = Path(f"/proc/{master.pid}/limits").read_text()
        assert ["Max", "open", "files", "4096", "4096", "files"] in [line.split() for line in limits.splitlines()]


def test_without_its_master_a_process_shuts_its_door_at_once() -> None:
    with serving() as (port, master):
        idle = HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(idle):
            idle.request("GET", "/scheme")
            assert idle.getresponse().read()
            master.kill()
            wait_until(lambda: not knocks(port), 10, "the door to be shut")
            # It lingers for who is there already; gunicorn's own would leave the door open meanwhile.
            assert select.select([idle.sock], [], [], 0)[0] == []
