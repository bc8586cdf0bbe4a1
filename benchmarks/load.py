"""A client that costs little: prepared HTTP requests over kept connections, as fast as answered or at a steady rate.

Servers and client share the cores, so whatever the client takes is lost to what is measured.
"""

import heapq
import re
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *([0-9]+)")


class Answers(NamedTuple):
    """What came back: how many of each status, in how many seconds, and each reply's seconds."""

    statuses: Mapping[int, int]
    seconds: float
    latencies: list[float]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.latencies) / self.seconds


def request(path: str, body: bytes | None = None) -> bytes:
    """A request's bytes; a POST where there is a body."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: bench\r\n"
    if body is None:
        return f"{head}\r\n".encode()
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def flood(port: int, requests: Iterable[bytes], connections: int) -> Answers:
    """Each connection sends its next request as soon as the last was answered, until all are answered."""
    source = iter(requests)
    with _Clients(port, connections) as clients:
        begun = time.perf_counter()
        for client in clients.idle[:]:
            clients.send(client, next(source), time.perf_counter())
        while clients.busy:
            for client in clients.receive(10.0):
                if (following := next(source, None)) is not None:
                    clients.send(client, following, time.perf_counter())
        return clients.answers(time.perf_counter() - begun)


def steady(port: int, rates: Mapping[int, Iterator[bytes]], seconds: float, connections: int) -> list[Answers]:
    """Requests of several kinds, each at its rate whatever becomes of them, for so long; the answers of each kind.

    Latency counts from when a request was due, so one that waits for a free connection is late.
    """
    with _Clients(port, connections) as clients:
        begun = time.perf_counter()
        plan = [(begun + 1 / rate, kind, rate, source) for kind, (rate, source) in enumerate(rates.items())]
        heapq.heapify(plan)
        while plan or clients.busy:
            now = time.perf_counter()
            while plan and plan[0][0] <= now and clients.idle:
                due, kind, rate, source = heapq.heappop(plan)
                clients.send(clients.idle[-1], next(source), due, kind)
                if due + 1 / rate < begun + seconds:
                    heapq.heappush(plan, (due + 1 / rate, kind, rate, source))
            waits = plan[0][0] - time.perf_counter() if plan and clients.idle else 10.0
            clients.receive(max(0.0, waits))
        took = time.perf_counter() - begun
        return [clients.answers(took, kind) for kind in range(len(rates))]


class _Client:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.begun = 0.0
        self.kind = 0


class _Clients:
    """All connections of a run."""

    def __init__(self, port: int, connections: int) -> None:
        self.idle = [_Client(port) for _ in range(connections)]
        self.busy: dict[int, _Client] = {}
        self._all = list(self.idle)
        self._poll = select.epoll()
        for client in self._all:
            self._poll.register(client.socket, select.EPOLLIN)
        self._replies: list[tuple[int, int, float]] = []

    def __enter__(self) -> "_Clients":
        return self

    def __exit__(self, *_: object) -> None:
        self._poll.close()
        for client in self._all:
            client.socket.close()

    def send(self, client: _Client, data: bytes, begun: float, kind: int = 0) -> None:
        self.idle.remove(client)
        client.begun, client.kind, client.received = begun, kind, b""
        self.busy[client.socket.fileno()] = client
        client.socket.sendall(data)

    def receive(self, seconds: float) -> list[_Client]:
        """Wait for answers, at most so long; the connections that have all of theirs."""
        done = []
        for descriptor, _ in self._poll.poll(seconds):
            client = self.busy[descriptor]
            data = client.socket.recv(65536)
            if not data:
                raise ConnectionError("the server closed a connection before it answered")
            client.received += data
            if (status := _status(client.received)) is not None:
                self._replies.append((client.kind, status, time.perf_counter() - client.begun))
                del self.busy[descriptor]
                self.idle.append(client)
                done.append(client)
        return done

    def answers(self, seconds: float, kind: int = 0) -> Answers:
        mine = [(status, latency) for of, status, latency in self._replies if of == kind]
        statuses: dict[int, int] = {}
        for status, _ in mine:
            statuses[status] = statuses.get(status, 0) + 1
        return Answers(statuses, seconds, [latency for _, latency in mine])


def _status(received: bytes) -> int | None:
    """The status of an answer that is whole."""
    head, separator, body = received.partition(b"\r\n\r\n")
    found = _LENGTH.search(head)
    if not separator or found is None or len(body) < int(found[1]):
        return None
    return int(received[9:12])
