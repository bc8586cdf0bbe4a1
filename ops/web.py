"""A Flask app under gunicorn, with the settings of ours that all pages share."""

import contextlib
import select
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]

#: Seconds that requests in hand get when the server is told to stop.
GRACE_SECONDS = 3
#: Seconds that a load balancer's idle connection stays open; above the usual 60 of the balancer itself.
KEEP_ALIVE_SECONDS = 75

#: Seconds after which no more is read of a request; its thread is needed by others.
REQUEST_SECONDS = 10.0
#: Threads that see connections to their end, each for up to two seconds.
CLOSERS = 8
#: Seconds between two signs of life to gunicorn's master, which waits for half a minute.
HEARTBEAT_SECONDS = 1.0
#: Seconds that a process waits for each connection that it has before it takes another, and at most.
HANDICAP_SECONDS, HANDICAP_MOST = 20e-6, 0.4e-3


class Worker(ThreadWorker):  # type: ignore[misc]
    """gunicorn's, but fair to its siblings and to who knocks while it stops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._beaten = 0.0
        #: Since when a thread is at a connection's request, on time.monotonic()'s clock.
        self._at_work: dict[TConn, float] = {}

    def init_process(self) -> None:
        self._closers = ThreadPoolExecutor(CLOSERS, thread_name_prefix="close")
        super().init_process()

    def run(self) -> None:
        """Until told to stop; whom this process still waits for then must not keep it."""
        super().run()
        for conn in self._at_work.copy():
            with contextlib.suppress(OSError):  # it has just ended
                conn.sock.shutdown(socket.SHUT_RDWR)
        self._closers.shutdown(wait=False, cancel_futures=True)

    def notify(self) -> None:
        """Say that this process lives, if it has not lately, and hurry those that take too long.

        gunicorn's own does at each turn of its loop, twice a request, and lets go of Python's lock for it.
        """
        now = time.monotonic()
        if now >= self._beaten + HEARTBEAT_SECONDS:
            self._beaten = now
            super().notify()
            self._hurry(now)

    def _hurry(self, now: float) -> None:
        """Whoever has begun a request and does not go on has said all: gunicorn would wait for the rest for ever."""
        for conn, begun in self._at_work.copy().items():
            if begun < now - REQUEST_SECONDS:
                with contextlib.suppress(OSError):  # it has just ended
                    conn.sock.shutdown(socket.SHUT_RD)

    def handle(self, conn: TConn) -> Any:
        """Runs in a thread of the pool."""
        self._at_work[conn] = time.monotonic()
        try:
            return super().handle(conn)
        finally:
            del self._at_work[conn]

    def finish_request(self, conn: TConn, done: "Future[Any]") -> None:
        """A connection that ends is closed by a thread of its own, which waits until the peer has ended it, too.

        gunicorn's own lets all others wait meanwhile, for up to two seconds.
        """
        if done.exception() is not None or done.result():
            super().finish_request(conn, done)
            return
        with contextlib.suppress(OSError):  # the peer is gone
            conn.sock.shutdown(socket.SHUT_WR)  # it may wait for this end, and not for a closer
        closing = self._closers.submit(conn.close, graceful=True)
        closing.add_done_callback(lambda _: self.method_queue.defer(self._closed))

    def _closed(self) -> None:
        self.nr_conns -= 1

    def is_parent_alive(self) -> bool:
        """Without its master a process stops, as if it had been told to."""
        if super().is_parent_alive():
            return True
        self.alive = False
        return False

    def accept(self, listener: socket.socket) -> None:
        """Take a connection, unless a process that has fewer of them is faster.

        Without that one process takes nearly all that a load balancer opens at once, and keeps them.
        """
        time.sleep(min(self.nr_conns * HANDICAP_SECONDS, HANDICAP_MOST))
        super().accept(listener)

    def enqueue_req(self, conn: TConn) -> None:
        """A connection waits for its first request beside the idle ones.

        gunicorn's own keeps a thread for five seconds meanwhile: a load balancer that opens a few dozen connections in
        advance would take them all.
        """
        if conn.initialized or conn.data_ready or not self.alive:
            super().enqueue_req(conn)
            return
        conn.sock.setblocking(False)
        conn.set_timeout()
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def set_accept_enabled(self, enabled: bool) -> None:
        """Told to stop, take who waits at the door and shut it: a load balancer turns to the next receiver at once.

        gunicorn's own leaves the door open while it lingers, and who knocks then waits in vain.
        """
        super().set_accept_enabled(enabled)
        if not self.alive and not enabled:
            while self.sockets:  # gunicorn calls this again for a worker that was told while it was full
                listener = self.sockets.pop()
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()


class WebServer(BaseApplication):  # type: ignore[misc]
    """`run` serves until SIGTERM or SIGINT. `make` builds the app in each worker, after the fork."""

    def __init__(
        self, make: Callable[[], Flask], host: str, port: int, workers: int, threads: int, extra: Mapping[str, Any]
    ) -> None:
        self._make = make
        self._settings: dict[str, Any] = {
            "bind": [bind_address(host, port)],
            "workers": workers,
            "worker_class": Worker,
            "threads": threads,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": GRACE_SECONDS,
            "accesslog": None,
            "loglevel": "warning",
            "control_socket_disable": True,
            **extra,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._make()


def bind_address(host: str, port: int) -> str:
    """As gunicorn and URLs want it; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
