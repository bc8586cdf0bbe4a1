"""The receiver's gunicorn worker: callbacks that have arrived are answered together, by the loop that hears them.

A thread for each would cost twice the CPU: threads hand Python's lock to one another at each read, write and call of
Redis. So all that waits shares one call, and nobody hands anything on.
"""

import re
import selectors
import socket
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from http import HTTPStatus
from typing import Any

import msgspec
from gunicorn import SERVER, util  # type: ignore[import-untyped]
from gunicorn.workers.gthread import TConn  # type: ignore[import-untyped]

from bridge.callbacks import Answer, Callbacks, Posted
from ops.web import REQUEST_SECONDS, Worker

#: Bytes of a head, and of a request, up to which the loop keeps what has come of it; threads read what is larger.
MOST_HEAD, MOST_BYTES = 1 << 13, 1 << 14
#: Callbacks that are answered together.
TOGETHER = 64

#: A callback's first line as anybody writes it, and what else the loop must know of its head. What is unusual threads
#: take, and gunicorn's parser has the last word in any case.
_FIRST_LINE = re.compile(rb"POST (/callback/[^ ?]+)(?:\?[^ ]*)? HTTP/1\.[01]\r\n")
_BEGINNING, _END = b"POST /callback/", b"\r\n\r\n"
_LENGTH = re.compile(rb"(?i)\ncontent-length: *([0-9]{1,6})\r")
_UNUSUAL = re.compile(rb"(?i)\n(?:transfer-encoding|expect|upgrade)")


def _done(keep: bool) -> "Future[bool]":
    done: Future[bool] = Future()
    done.set_result(keep)
    return done


#: Whether a connection is kept once its request is answered, as gunicorn wants to be told.
KEPT, LEFT = _done(True), _done(False)


class Heard(Enum):
    """What has come of a request."""

    WHOLE = auto()
    PART = auto()
    #: No callback, or not a plain one.
    OTHER = auto()


class Gatherer(Worker):
    """gunicorn's, where callbacks need no thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Connections of whose next request all has come, or a part, and when that began, on time.monotonic()'s clock.
        self._whole: dict[TConn, float] = {}
        self._parts: dict[TConn, float] = {}

    def run(self) -> None:
        self._callbacks: Callbacks = self.wsgi.wsgi_app
        super().run()
        self._callbacks.stop()

    def enqueue_req(self, conn: TConn) -> None:
        """A connection is new, or has something to say."""
        if conn.initialized or conn.data_ready:
            self._hear(conn)
        else:
            super().enqueue_req(conn)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        """Hear who has something to say, then answer those who have said all."""
        super().wait_for_and_dispatch_events(0 if self._whole else timeout)
        if self._whole:
            self._answer({conn: self._whole.pop(conn) for conn in list(self._whole)[:TOGETHER]})

    def _hear(self, conn: TConn) -> None:
        conn.init()
        conn.sock.setblocking(False)  # a thread has left it blocking
        unreader = conn.parser.unreader
        said = unreader.take_buffered()
        heard = self._judge(said)
        if heard is Heard.PART:
            try:
                more = conn.sock.recv(MOST_BYTES)
                said += more
                heard = self._judge(said) if more else Heard.OTHER
            except BlockingIOError:  # it came in part with the request before
                pass
            except OSError:
                heard = Heard.OTHER
        unreader.unread(said)
        if heard is Heard.PART:
            self._parts.setdefault(conn, time.monotonic())
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(self._on_more, conn))
            return
        begun = self._parts.pop(conn, None)
        if heard is Heard.WHOLE:
            self._whole[conn] = time.monotonic() if begun is None else begun
        else:
            super().enqueue_req(conn)

    def _on_more(self, conn: TConn, sock: socket.socket) -> None:
        self.poller.unregister(sock)
        self._hear(conn)

    def _judge(self, said: bytes) -> Heard:
        end = said.find(_END, 0, MOST_HEAD)
        if end < 0:
            begun = _BEGINNING.startswith(said[: len(_BEGINNING)])
            return Heard.PART if begun and len(said) < MOST_HEAD else Heard.OTHER
        head = said[: end + len(_END)]
        line, lengths = _FIRST_LINE.match(head), _LENGTH.findall(head)
        if line is None or len(lengths) != 1 or _UNUSUAL.search(head) or not self._knows(line[1]):
            return Heard.OTHER
        whole = len(head) + int(lengths[0])
        if len(said) >= whole:
            return Heard.WHOLE
        return Heard.PART if whole <= MOST_BYTES else Heard.OTHER

    def _knows(self, path: bytes) -> bool:
        return self._callbacks.knows(path.decode("latin-1"))

    def _hurry(self, now: float) -> None:
        """As whoever keeps a thread: a thread tells them that they have said all."""
        super()._hurry(now)
        for conn, begun in list(self._parts.items()):
            if begun < now - REQUEST_SECONDS:
                del self._parts[conn]
                self.poller.unregister(conn.sock)
                with suppress(OSError):  # it has just ended
                    conn.sock.shutdown(socket.SHUT_RD)
                super().enqueue_req(conn)

    def _answer(self, gathered: Mapping[TConn, float]) -> None:
        requests: dict[TConn, Any] = {}
        posted: list[Posted] = []
        for conn, begun in gathered.items():
            try:
                request = next(conn.parser)
                posted.append(Posted(request.path, request.query, request.body.read(), begun))
                requests[conn] = request
            except Exception as error:  # noqa: BLE001 - of strangers' bytes
                self._fail(conn, None, error)
        try:
            answers = self._callbacks.answer(posted)
        except Exception as error:  # noqa: BLE001 - which would end this process, and with it others' requests
            for conn, request in requests.items():
                self._fail(conn, request, error)
            return
        for (conn, request), answer in zip(requests.items(), answers, strict=True):
            keep = self.alive and not request.should_close() and len(self.keepalived_conns) < self.max_keepalived
            said = say(conn.sock, answer, keep)
            self.finish_request(conn, KEPT if keep and said else LEFT)

    def _fail(self, conn: TConn, request: Any, error: Exception) -> None:
        """As a request ends whose thread finds an error."""
        try:
            self.handle_error(request, conn.sock, conn.client, error)
        except Exception:
            self.log.exception("an error could not be told")
        self.finish_request(conn, LEFT)


def say(sock: socket.socket, answer: Answer, keep: bool) -> bool:
    """Whether all of it found room; who reads no answers has none."""
    body = msgspec.json.encode(answer.told)
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nServer: {SERVER}\r\n"
        f"Date: {util.http_date()}\r\nConnection: {'keep-alive' if keep else 'close'}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    text = head.encode() + body
    try:
        return bool(sock.send(text) == len(text))
    except OSError:
        return False
