"""A Flask app under gunicorn, with the settings of ours that all pages share."""

import contextlib
import errno
import resource
import select
import selectors
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from flask import Flask
from gunicorn import util  # type: ignore[import-untyped]
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.http import errors  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn, ThreadWorker  # type: ignore[import-untyped]
from werkzeug.exceptions import default_exceptions

#: Seconds that requests in hand get when the server is told to stop.
GRACE_SECONDS = 3
#: Seconds without a sign of life after which a process is replaced: a name that nobody looks up may take half a minute.
HUNG_SECONDS = 60
#: Seconds that a load balancer's idle connection stays open; above the usual 60 of the balancer itself.
KEEP_ALIVE_SECONDS = 75

#: Seconds after which no more is read of a request; its thread is needed by others. DingTalk gives up after 1.2 to 2.5,
#: and a body has a mebibyte at most.
REQUEST_SECONDS = 3.0
#: Seconds after which nobody need read an answer any more, where it does not even fit into the buffers.
ANSWER_SECONDS = 2 * REQUEST_SECONDS
#: Threads that see connections to their end, each for up to two seconds.
CLOSERS = 8
#: Seconds between two signs of life to gunicorn's master, which waits for a minute.
HEARTBEAT_SECONDS = 1.0
#: Seconds that a process waits for each connection that it has before it takes another, and at most.
HANDICAP_SECONDS, HANDICAP_MOST = 20e-6, 0.4e-3
#: Files and connections that a process may have open, where the system lets it: far above gunicorn's 1000 connections.
MOST_FILES = 65536
#: What accept says where there is no more room for a connection, and seconds until it is tried again.
NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
NO_ROOM_SECONDS = 0.05
#: Statuses of what gunicorn refuses by itself; else it is 400.
STATUSES: Mapping[type[Exception], int] = {
    errors.LimitRequestLine: 414,
    errors.ExpectationFailed: 417,
    errors.LimitRequestHeaders: 431,
    errors.UnsupportedTransferCoding: 501,
}
#: Errors that gunicorn finds in what is no request's fault.
OURS = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName, errors.ConfigurationProblem)


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
        """Whoever has begun a request and does not go on has said all: gunicorn would wait for the rest for ever.

        Who does not read the answer is cut off.
        """
        for conn, begun in self._at_work.copy().items():
            with contextlib.suppress(OSError, ValueError):  # it has just ended
                if begun < now - ANSWER_SECONDS and not _is_writable(conn.sock):
                    conn.sock.shutdown(socket.SHUT_RDWR)
                elif begun < now - REQUEST_SECONDS:
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
        self._accepts(listener)

    def _accepts(self, listener: socket.socket) -> bool:
        """Whether there is room for one more; gunicorn's own dies where there is none."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            time.sleep(NO_ROOM_SECONDS)
            return False
        return True

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
                while select.select([listener], [], [], 0)[0] and self._accepts(listener):
                    pass
                listener.close()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """What gunicorn refuses by itself the app answers, counts and tells, as what it refuses itself."""
        if not isinstance(exc, errors.ParseException) or isinstance(exc, OURS):
            super().handle_error(req, client, addr, exc)
            return
        status = next((status for kind, status in STATUSES.items() if isinstance(exc, kind)), 400)
        with self.wsgi.test_request_context():
            answer = self.wsgi.make_response(self.wsgi.handle_user_exception(default_exceptions[status]()))
        answer.headers["Connection"] = "close"
        with contextlib.suppress(OSError):  # nobody waits for it
            util.write_nonblock(client, f"HTTP/1.1 {answer.status}\r\n{answer.headers}".encode() + answer.get_data())


class WebServer(BaseApplication):  # type: ignore[misc]
    """`run` serves until SIGTERM or SIGINT. `make` builds the app in each worker, after the fork."""

    def __init__(
        self,
        make: Callable[[], Flask],
        host: str,
        port: int,
        workers: int,
        threads: int,
        extra: Mapping[str, Any],
        worker: type[Worker] = Worker,
    ) -> None:
        self._make = make
        self._settings: dict[str, Any] = {
            "bind": [bind_address(host, port)],
            "workers": workers,
            "worker_class": worker,
            "threads": threads,
            "keepalive": KEEP_ALIVE_SECONDS,
            "graceful_timeout": GRACE_SECONDS,
            "timeout": HUNG_SECONDS,
            "accesslog": None,
            "loglevel": "warning",
            "control_socket_disable": True,
            # The app knows how many proxies are to be believed; gunicorn refuses what two of them tell differently.
            "forwarded_allow_ips": "",
            **extra,
        }
        super().__init__()

    def load_config(self) -> None:
        for name, value in self._settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._make()

    def run(self) -> None:
        _raise_limit()
        super().run()


def bind_address(host: str, port: int) -> str:
    """As gunicorn and URLs want it; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_writable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    return bool(poll.poll(0))


def _raise_limit() -> None:
    """As many open files as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if wanted > soft != resource.RLIM_INFINITY:
        with contextlib.suppress(OSError, ValueError):  # it has another limit that it does not tell, as macOS
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
