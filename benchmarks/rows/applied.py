"""How many events a second become rows, beside dramatiq and stock RQ, on SQLite and PostgreSQL."""

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import sqlalchemy as sa
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from rq import Queue

from benchmarks.api import answering
from benchmarks.place import START_SECONDS, Place, payload, tree
from benchmarks.row import Figures, Goal, Measure, Row, in_turn, ratio
from bridge import messages
from bridge.accept import Acceptor
from tests.installation import CORP
from tests.servers import fresh_database, running_postgresql, running_redis, wait_until
from workers.store import tables

#: Milliseconds in which the API answers.
API_MS = 10
#: Threads of each of dramatiq's two processes that are tried; the best is taken.
THREADS = (8, 16, 32)
#: Events of a measurement, by who is measured: about as many as take two or three seconds.
COUNTS = {"dingbridge": 3_000, "dramatiq": 1_500, "rq": 400}
#: Events on each user.
LOADS = {"distinct": 1, "ten per user": 10}
STORES = ("sqlite", "postgresql")
#: Events that are accepted in one call.
TOGETHER = 64
RQ_WORKERS = 8
#: Sync workers beside the others, and the numbers of them that are compared with one another.
WORKERS, SIZES = 2, (1, 2, 4)
#: Events before the first measurement, so that every process has begun.
WARM_UP = 256
#: Numbers the measurements, so that each has people of its own.
_measured = itertools.count()
#: Seconds in which what is slow must have ended.
PATIENCE = 120


class Contender(NamedTuple):
    """Workers that run, and how to give them events."""

    here: Place
    processes: Sequence["subprocess.Popen[bytes]"]
    enqueue: Callable[[Sequence[dict[str, Any]]], None]


@contextmanager
def prepared() -> Iterator[Measure]:
    with answering(API_MS) as api, running_postgresql() as server, ExitStack() as stack:
        threads = max(THREADS, key=lambda count: _try_threads(api, count))
        contenders = {
            (name, kind): stack.enter_context(_begun(name, kind, server, api, size))
            for kind in STORES
            for name, size in (("dingbridge", WORKERS), ("dramatiq", threads), ("rq", RQ_WORKERS))
        }

        def measure(number: int) -> dict[str, float]:
            figures: dict[str, float] = {"dramatiq, threads in each process": threads}
            for kind in STORES:
                for load, each in LOADS.items():
                    for name in in_turn(number, list(COUNTS)):
                        rate = _rate(contenders[name, kind], COUNTS[name], each)
                        figures[f"{name}, {load}, {kind}, events/s"] = rate
            return figures

        yield measure


@contextmanager
def by_workers() -> Iterator[Measure]:
    """The workers of one number run at a time."""
    with answering(API_MS) as api, running_postgresql() as server:

        def measure(number: int) -> dict[str, float]:
            figures = {}
            for kind in STORES:
                for size in map(int, in_turn(number, list(map(str, SIZES)))):
                    with _begun("dingbridge", kind, server, api, size) as contender:
                        figures[f"{kind}, sync workers: {size}, events/s"] = _rate(contender, COUNTS["dingbridge"], 1)
            return figures

        yield measure


@contextmanager
def _begun(name: str, kind: str, server: str, api: str, size: int) -> Iterator[Contender]:
    """One contender with its own Redis, datastore and processes; `size` of these, of dramatiq's two the threads."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dingbridge-bench-")))
        url = f"sqlite:///{folder}/dingbridge.db"
        if kind == "postgresql":
            url = stack.enter_context(fresh_database(server))
        redis_url = stack.enter_context(running_redis())
        here = Place(folder, redis_url, url, {"dingtalk": {"api": api, "calls_per_second": 0}})
        here.prepare()
        here.environment |= {"REDIS": redis_url, "DATASTORE": url, "API": api}
        start = {"dingbridge": _ours, "dramatiq": _dramatiq, "rq": _rq}[name]
        contender = start(stack, here, size)
        _rate(contender, WARM_UP, 1)
        yield contender


def _ours(stack: ExitStack, here: Place, workers: int) -> Contender:
    acceptor = Acceptor(here.redis)

    def enqueue(sent: Sequence[dict[str, Any]]) -> None:
        for first in range(0, len(sent), TOGETHER):
            parsed = [messages.parse(json.dumps(m).encode(), "acme", CORP) for m in sent[first : first + TOGETHER]]
            acceptor.accept([event for one in parsed for event in one.events])

    return Contender(here, stack.enter_context(here.working(workers)), enqueue)


def _dramatiq(stack: ExitStack, here: Place, threads: int) -> Contender:
    arguments = ["-m", "dramatiq", "benchmarks.peers.dramatiq_peer", "--processes", "2", "--threads", str(threads)]
    process = stack.enter_context(here.running(*arguments))
    broker = RedisBroker(url=here.redis_url)  # type: ignore[no-untyped-call]

    def enqueue(messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            broker.enqueue(Message("default", "apply", (message,), {}, {}))

    return Contender(here, [process], enqueue)


def _rq(stack: ExitStack, here: Place, workers: int) -> Contender:
    command = ("-m", "benchmarks.peers.rq_peer")
    processes = [stack.enter_context(here.running(*command)) for _ in range(workers)]
    queue = Queue("events", connection=here.redis)
    wait_until(lambda: here.redis.scard("rq:workers") == workers, START_SECONDS, "RQ's workers")

    def enqueue(messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            queue.enqueue("benchmarks.peers.rq_peer.apply", message)

    return Contender(here, processes, enqueue)


def _try_threads(api: str, threads: int) -> float:
    with _begun("dramatiq", "sqlite", "", api, threads) as contender:
        return _rate(contender, COUNTS["dramatiq"], 1)


def _rate(contender: Contender, count: int, each: int) -> float:
    """Events a second from when the workers go on, who stand still while the events are enqueued."""
    here, people, measured = contender.here, count // each, next(_measured)
    sent = [payload(number, people) for number in range(count)]
    for message in sent:
        message["userId"] = [f"{message['userId'][0]}-{measured}"]
    with here.store() as store:
        done = _count(store, tables.events) + count
        _signal(contender, signal.SIGSTOP)
        contender.enqueue(sent)
        _signal(contender, signal.SIGCONT)
        begun = time.perf_counter()
        wait_until(lambda: _count(store, tables.events) >= done, PATIENCE, "the events")
        seconds = time.perf_counter() - begun
        wait_until(lambda: _count(store, tables.reads) == 0, PATIENCE, "the echoes")
    return count / seconds


def _count(store: Any, table: sa.Table) -> int:
    with store.reading() as sql:
        return int(sql.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def _signal(contender: Contender, number: signal.Signals) -> None:
    for process in contender.processes:
        for each in tree(process.pid):
            os.kill(each, number)


def _against(other: str, load: str, kind: str) -> Callable[[Figures], float]:
    return ratio(*(f"{name}, {load}, {kind}, events/s" for name in ("dingbridge", other)))


BY_WORKERS = Row("workers", f"{COUNTS['dingbridge']} events that wait, API at {API_MS} ms", by_workers, [], rounds=2)
ROW = Row(
    "applied",
    f"events that wait ({', '.join(f'{name} {count}' for name, count in COUNTS.items())}), API at {API_MS} ms, "
    f"{WORKERS} sync workers, dramatiq 2 processes, RQ {RQ_WORKERS} SimpleWorkers",
    prepared,
    [
        *(
            Goal(f"distinct, {kind}, against dramatiq", _against("dramatiq", "distinct", kind), 1.3, 2.5)
            for kind in STORES
        ),
        *(Goal(f"distinct, {kind}, against RQ", _against("rq", "distinct", kind), 5, 12) for kind in STORES),
        *(
            Goal(f"ten per user, {kind}, against dramatiq", _against("dramatiq", "ten per user", kind), 2.5, 5)
            for kind in STORES
        ),
    ],
)
