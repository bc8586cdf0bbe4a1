"""The receiver's processes share what knocks at their port, and keep no thread for who says nothing."""

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import Any

import pytest
from flask import Flask
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from ops import web
from ops.web import WebServer, Worker
from tests.installation import ROOT, answers
from tests.servers import free_port, wait_until


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


@contextmanager
def serving(threads: int = 2, **changed: float) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server of one process, with these of `ops.web`'s limits; its port and its master."""
    port = free_port()
    app = f"Flask('x', static_folder='{ROOT}', static_url_path='/static')"
    limits = "".join(f"web.{name} = {value}; " for name, value in changed.items())
    start = f"web.WebServer(lambda: {app}, '127.0.0.1', {port}, 1, {threads}, {{}}).run()"
    command = [sys.executable, "-c", f"from flask import Flask; from ops import web; {limits}{start}"]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/static/README.md"), 20, "the server")
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
        assert answers(f"http://127.0.0.1:{port}/static/README.md")
        # Who has said nothing so far may still do so.
        silent[0].sendall(b"GET /static/README.md HTTP/1.1\r\nHost: x\r\n\r\n")
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
            lingering = ask(port, stack, b"GET /static/README.md HTTP/1.0\r\n\r\n")
            while lingering.recv(65536):
                pass  # and does not close its own side
            assert time.monotonic() - begun < 1
            begun = time.monotonic()
            assert answers(f"http://127.0.0.1:{port}/static/README.md")
            # gunicorn's own would answer nobody until two seconds are over.
            assert time.monotonic() - begun < 1


@pytest.mark.parametrize(
    "begun",
    [b"GET /static/README.md HTTP/1.1\r\nHost", b"POST /static/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"],
)
def test_who_does_not_go_on_keeps_no_thread(begun: bytes) -> None:
    with serving(REQUEST_SECONDS=0.5) as (port, _), contextlib.ExitStack() as stack:
        stalled = [ask(port, stack, begun) for _ in range(4)]
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/static/README.md"), 10, "a thread")
        for client in stalled:
            while client.recv(65536):
                pass


def test_without_its_master_a_process_shuts_its_door_at_once() -> None:
    with serving() as (port, master):
        idle = HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(idle):
            idle.request("GET", "/static/README.md")
            assert idle.getresponse().read()
            master.kill()
            wait_until(lambda: not knocks(port), 10, "the door to be shut")
            # It lingers for who is there already; gunicorn's own would leave the door open meanwhile.
            assert select.select([idle.sock], [], [], 0)[0] == []
