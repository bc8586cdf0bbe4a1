"""Callbacks that the receiver's loop answers itself: however they come, and as if each had a thread of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
import yaml
from flask import Flask
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

from bridge.callbacks import Answer
from ops.gather import Gatherer, say
from ops.web import REQUEST_SECONDS, WebServer
from tests.bridge.callbacks import EVENT, Callback
from tests.installation import ROOT, answers, settings
from tests.servers import free_port, missing, wait_until


class Server(NamedTuple):
    """`dingbridge serve`'s gunicorn, of one process."""

    port: int
    process: "subprocess.Popen[bytes]"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def child(self) -> int:
        """The process that answers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if not children.exists():
            missing("Linux, which tells a process's children,")
        return int(children.read_text())


@contextmanager
def serving(redis_url: str, folder: Path) -> Iterator[Server]:
    given = settings(redis={"url": redis_url}, var=str(folder / "var"))
    (folder / "config.yaml").write_text(yaml.safe_dump(given))
    environment = os.environ | {"BRIDGE_CONFIG": str(folder / "config.yaml"), "PYTHONPATH": str(ROOT)}
    port = free_port()
    options = ["--worker-class", "ops.gather.Gatherer", "--threads", "2", "--keep-alive", "75"]
    options += ["--bind", f"127.0.0.1:{port}", "--graceful-timeout", "3"]
    command = [sys.executable, "-m", "gunicorn", *options, "tests.bridge.wsgi:create()"]
    with subprocess.Popen(command, env=environment, cwd=folder) as process:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), 20, "gunicorn")
            yield Server(port, process)
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def one_server(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(redis_server, tmp_path_factory.mktemp("gather")) as made:
        yield made


@pytest.fixture
def server(one_server: Server, redis_url: str) -> Server:
    """One for all tests, and an empty Redis."""
    return one_server


def text(callback: Callback, *headers: str, version: str = "1.1") -> bytes:
    """A callback as it is sent."""
    lines = [f"POST {callback.url} HTTP/{version}", "Host: x", f"Content-Length: {len(callback.body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + callback.body


def numbered(number: int) -> Callback:
    return Callback(EVENT | {"eventId": f"e-{number}"})


def heard(sender: socket.socket) -> tuple[HTTPResponse, bytes]:
    """The next answer, and its body."""
    response = HTTPResponse(sender)
    response.begin()
    return response, response.read()


def taken(sender: socket.socket, callback: Callback) -> HTTPResponse:
    """The next answer, which must be success."""
    response, body = heard(sender)
    assert (response.status, response.headers["Content-Type"]) == (200, "application/json")
    assert callback.plain(body) == "success"
    assert response.headers["Date"]
    return response


@pytest.mark.parametrize("cut", [1, 10, 60, 200, -200, -1])
def test_in_pieces(server: Server, cut: int) -> None:
    callback = Callback()
    said = text(callback)
    with server.connect() as sender:
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sender.sendall(said[:cut])
        assert answers(f"http://127.0.0.1:{server.port}/healthz")  # so that the first piece was heard
        sender.sendall(said[cut:])
        taken(sender, callback)


def test_one_after_the_other_and_pages_between_them(server: Server) -> None:
    with server.connect() as sender:
        for number in range(3):
            sender.sendall(text(numbered(number)))
            taken(sender, numbered(number))
            sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert heard(sender)[1] == b'{"status":"up"}'


def test_a_piece_behind_a_page_holds_nobody_up(server: Server) -> None:
    """It was read ahead by a thread, which reads as one that may wait."""
    callback = Callback()
    said = text(callback)
    with server.connect() as sender, server.connect() as other:
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + said[:20])
        assert heard(sender)[0].status == 200
        other.sendall(text(numbered(1)))
        taken(other, numbered(1))
        sender.sendall(said[20:])
        taken(sender, callback)


def test_several_at_once_on_one_connection_are_answered_in_turn(server: Server) -> None:
    callbacks = [Callback(EVENT | {"eventId": f"e-{number}"}, nonce=f"nonce{number}") for number in range(3)]
    with server.connect() as sender:
        sender.sendall(b"".join(map(text, callbacks)) + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = sender.makefile("rb")
        for callback in callbacks:
            head = b"".join(iter(answer.readline, b"\r\n"))
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            body = answer.read(length)
            assert callback.plain(body) == "success"
            assert f'"{callback.query["nonce"]}"'.encode() in body
        assert answer.readline().startswith(b"HTTP/1.1 200")


def test_those_that_wait_share_one_call(server: Server, redis_url: str) -> None:
    """They come while the process does something else."""
    senders = [server.connect() for _ in range(16)]
    for sender in senders:
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert heard(sender)[0].status == 200
    with redis.Redis.from_url(redis_url) as connection:
        connection.config_resetstat()
        os.kill(server.child(), signal.SIGSTOP)
        for number, sender in enumerate(senders):
            sender.sendall(text(numbered(number)))
        os.kill(server.child(), signal.SIGCONT)
        for number, sender in enumerate(senders):
            taken(sender, numbered(number))
            sender.close()
        # Two, where a note of how callbacks fared comes between.
        assert connection.info("commandstats")["cmdstat_evalsha"]["calls"] <= 2
        assert connection.llen("rq:queue:user_add_org") == 16


@pytest.mark.parametrize(
    ("headers", "version"), [(["Connection: close"], "1.1"), ([], "1.0"), (["Connection: close"], "1.0")]
)
def test_who_wants_no_more_is_left(server: Server, headers: list[str], version: str) -> None:
    with server.connect() as sender:
        sender.sendall(text(Callback(), *headers, version=version))
        response = taken(sender, Callback())
        assert response.headers["Connection"] == "close"
        assert sender.recv(1) == b""


def test_who_has_said_all_and_ends_is_answered(server: Server) -> None:
    with server.connect() as sender:
        sender.sendall(text(Callback()))
        sender.shutdown(socket.SHUT_WR)
        taken(sender, Callback())
        assert sender.recv(1) == b""


def test_who_waits_for_leave_to_go_on(server: Server) -> None:
    said = text(Callback(), "Expect: 100-continue")
    head, blank, body = said.partition(b"\r\n\r\n")
    with server.connect() as sender:
        sender.sendall(head + blank)
        assert sender.recv(65536).startswith(b"HTTP/1.1 100")
        sender.sendall(body)
        taken(sender, Callback())


def test_two_lengths_are_refused(server: Server) -> None:
    with server.connect() as sender:
        sender.sendall(text(Callback(), "Content-Length: 5"))
        assert heard(sender)[0].status == 400
        assert sender.recv(1) == b""


@pytest.mark.parametrize("odd", [b"Content-Length : 2", b"X\x00: y", b"no colon", b" folded: y"])
def test_a_head_that_is_none_is_refused(server: Server, odd: bytes) -> None:
    head, blank, body = text(Callback()).partition(b"\r\n\r\n")
    with server.connect() as sender:
        sender.sendall(head + b"\r\n" + odd + blank + body)
        assert heard(sender)[0].status == 400
        assert sender.recv(1) == b""
    assert answers(f"http://127.0.0.1:{server.port}/healthz")


@pytest.mark.parametrize("cut", [5, 100, -1])
def test_who_does_not_go_on_keeps_nobody_waiting(server: Server, cut: int) -> None:
    """More of them than there are threads."""
    waiting = [server.connect() for _ in range(10)]
    for sender in waiting:
        sender.sendall(text(Callback())[:cut])
    begun = time.monotonic()
    with server.connect() as sender:
        sender.sendall(text(Callback()))
        taken(sender, Callback())
        sender.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert heard(sender)[0].status == 200
    assert time.monotonic() < begun + REQUEST_SECONDS / 2
    for sender in waiting:
        said = b"".join(iter(lambda sender=sender: sender.recv(65536), b""))  # type: ignore[misc]
        assert said.startswith(b"HTTP/1.1 400 ") if cut == -1 else said == b""
        sender.close()
    assert time.monotonic() > begun + REQUEST_SECONDS / 2


def test_one_told_to_stop_answers_and_says_that_it_was_the_last(redis_url: str, tmp_path: Path) -> None:
    with serving(redis_url, tmp_path) as server, server.connect() as sender:
        sender.sendall(text(numbered(1)))
        assert taken(sender, numbered(1)).headers["Connection"] == "keep-alive"
        server.process.terminate()
        wait_until(lambda: refused(server.port), what="the door to be shut")
        sender.sendall(text(numbered(2)))
        assert taken(sender, numbered(2)).headers["Connection"] == "close"
        assert sender.recv(1) == b""


def refused(port: int) -> bool:
    connection = HTTPConnection("127.0.0.1", port, timeout=1)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    finally:
        connection.close()
    return False


def test_who_asks_without_end_holds_nobody_up(server: Server) -> None:
    many = text(Callback(token="wr0ngToken")) * 2000
    with server.connect() as flood, server.connect() as other, ThreadPoolExecutor(1) as pool:
        sent = pool.submit(flood.sendall, many)
        for number in range(20):
            begun = time.monotonic()
            other.sendall(text(numbered(number)))
            taken(other, numbered(number))
            assert time.monotonic() < begun + 1
        flood.shutdown(socket.SHUT_RDWR)
        assert sent.exception(10) is None or isinstance(sent.exception(), OSError)


def test_an_answer_that_finds_no_room_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        assert say(ours, Answer(200, {}), True) is False


def test_a_fault_of_ours_ends_the_requests_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def knows(self, _path: str) -> bool:
            return True

        def answer(self, _posted: object) -> None:
            raise RuntimeError("a fault")

    cfg = WebServer(lambda: Flask(__name__), "127.0.0.1", 1, 1, 1, {}, Gatherer).cfg
    worker = Gatherer(1, os.getpid(), [], None, 30, cfg, Logger(cfg))
    worker._callbacks = Broken()  # type: ignore[assignment]
    done: list[tuple[TConn, bool]] = []
    monkeypatch.setattr(worker, "finish_request", lambda conn, future: done.append((conn, future.result())))
    with closing(worker.tmp), ExitStack() as stack:
        conns = []
        for number in range(2):
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            stack.enter_context(theirs)
            conns.append(TConn(cfg, ours, ("127.0.0.1", 1), ("127.0.0.1", 1)))
            theirs.sendall(text(numbered(number)))
            worker._hear(conns[-1])
        worker._answer(dict.fromkeys(conns, 0.0))
    assert done == [(conn, False) for conn in conns]
