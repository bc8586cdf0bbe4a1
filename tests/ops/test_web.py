"""The receiver's processes share what knocks at their port."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from ops import web
from ops.web import WebServer, Worker


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port at which one knocks; as gunicorn's it does not block."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        with socket.create_connection(server.getsockname()):
            yield server


@contextmanager
def worker(listener: socket.socket, connections: int, taken: list[Any]) -> Iterator[Worker]:
    """One that has so many connections and notes those that it takes."""
    cfg = WebServer(lambda: Flask(__name__), "127.0.0.1", 1, 2, 4, {}).cfg
    made = Worker(1, os.getpid(), [listener], None, 30, cfg, Logger(cfg))
    made.nr_conns = connections
    made.enqueue_req = taken.append
    try:
        yield made
    finally:
        made.tmp.close()


def waits(monkeypatch: pytest.MonkeyPatch, listener: socket.socket, connections: int) -> float:
    """Seconds that a process waits before it takes another one."""
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    taken: list[Any] = []
    with worker(listener, connections, taken) as one:
        one.accept(listener)
    assert len(taken) == 1
    taken[0].sock.close()
    return sum(waited)


def test_who_has_more_connections_waits_longer(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()):
        assert waits(monkeypatch, listener, 0) == 0 < waits(monkeypatch, listener, 1)


def test_nobody_waits_long(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    assert waits(monkeypatch, listener, 1000) == web.HANDICAP_MOST


def test_a_sibling_may_be_faster(monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    taken: list[Any] = []
    sibling: list[socket.socket] = []
    monkeypatch.setattr(time, "sleep", lambda _seconds: sibling.append(listener.accept()[0]))
    with worker(listener, 3, taken) as busy:
        busy.accept(listener)
        assert (len(sibling), taken, busy.nr_conns) == (1, [], 3)
    sibling[0].close()
