"""Where it is measured: a Redis and a datastore as shipped, processes of ours, and what they use."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlencode

import redis
import sqlalchemy as sa
import yaml

from benchmarks.load import request
from bridge import crypto, messages
from bridge.config import Config
from bridge.events import Event
from ops import envelopes
from tests.installation import CORP, ROOT, answers, settings
from tests.servers import free_port, fresh_database, running_postgresql, running_redis, wait_until
from workers.store import migrate, tables
from workers.store.engine import Store, open_store

#: Seconds for a process to begin, on a machine that has much to do.
START_SECONDS = 120
#: Department and role of everybody in `benchmarks.api`; they are in the datastore from the beginning.
DEPARTMENT, ROLE = 2, 5


class Place:
    """One installation with its folder, Redis, datastore and configuration."""

    def __init__(self, folder: Path, redis_url: str, datastore_url: str, given: Mapping[str, Any]) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.datastore_url = datastore_url
        base = {"redis": {"url": redis_url}, "datastore": {"url": datastore_url}, "var": str(folder / "var")}
        self.settings = settings(**base, **given)
        self.config = Config.model_validate(self.settings)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.settings))
        self.environment = {**os.environ, "BRIDGE_CONFIG": str(path), "PYTHONPATH": str(ROOT)}

    @property
    def redis(self) -> redis.Redis:
        return redis.Redis.from_url(self.redis_url)

    @contextmanager
    def store(self) -> Iterator[Store]:
        store = open_store(self.datastore_url)
        try:
            yield store
        finally:
            store.close()

    def prepare(self) -> None:
        """Tables, and the department and role that everybody has: nobody asks for them then."""
        with self.store() as store:
            migrate.migrate(store)
            with store.writing() as sql:
                sql.execute(sa.insert(tables.departments).values(corp_id=CORP, dept_id=DEPARTMENT, version=1))
                sql.execute(sa.insert(tables.roles).values(corp_id=CORP, role_id=ROLE))

    @contextmanager
    def running(self, *command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A process until the end; what it says goes nowhere, unless it is a fault."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], env=self.environment | environment, cwd=self.folder, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    @contextmanager
    def receiving(self) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
        """`dingbridge serve`; its port."""
        port = free_port()
        with self.running("-m", "ops", "serve", PORT=str(port)) as process:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/readyz"), START_SECONDS, "the receiver")
            yield port, process

    @contextmanager
    def working(self, count: int) -> Iterator[list["subprocess.Popen[bytes]"]]:
        """So many of `dingbridge work`, all at their queues."""
        with ExitStack() as stack:
            processes = [stack.enter_context(self.running("-m", "ops", "work")) for _ in range(count)]
            with self.redis as connection:
                wait_until(lambda: connection.scard("rq:workers") == count, START_SECONDS, "the workers")
            yield processes

    def callbacks(self, count: int, people: int = 500) -> list[bytes]:
        """So many signed callbacks, each of an event of its own, as requests."""
        app = self.config.apps[0]
        return [callback(self.config, payload(number, people), app.keys[0].key()) for number in range(count)]

    def events(self, count: int, people: int) -> list[Event]:
        """So many events, in turn on these people, as `accept` takes them."""
        found = (messages.parse(json.dumps(payload(number, people)).encode(), "acme", CORP) for number in range(count))
        return list(itertools.chain.from_iterable(parsed.events for parsed in found))


def payload(number: int, people: int) -> dict[str, Any]:
    """A change of one of these people."""
    return envelopes.payload("user_modify_org", CORP, [f"user{number % people}"])


def callback(config: Config, message: Mapping[str, Any], key: crypto.Key) -> bytes:
    """A message as DingTalk posts it, with this key."""
    timestamp, nonce = str(time.time_ns() // 1_000_000), f"{time.perf_counter_ns():x}"
    text = json.dumps(message, ensure_ascii=False).encode()
    sealed = crypto.seal(key, text, config.apps[0].owner_keys[0], timestamp, nonce)
    query = urlencode({"msg_signature": sealed["msg_signature"], "timestamp": timestamp, "nonce": nonce})
    return request(f"/callback/acme?{query}", json.dumps({"encrypt": sealed["encrypt"]}).encode())


@contextmanager
def place(kind: str = "sqlite", **given: Any) -> Iterator[Place]:
    """An empty installation on servers of its own; `given` replaces sections of the configuration."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dingbridge-bench-")))
        url = f"sqlite:///{folder}/dingbridge.db"
        if kind == "postgresql":
            url = stack.enter_context(fresh_database(stack.enter_context(running_postgresql())))
        made = Place(folder, stack.enter_context(running_redis()), url, given)
        made.prepare()
        yield made


def tree(pid: int) -> Sequence[int]:
    """A process and all below it that live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid, *(below for child in children for below in tree(int(child)))]


def resident(pid: int) -> float:
    """MiB of a process and all below it that no other has too."""
    total = 0
    for each in tree(pid):
        rollup = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    return total / 1024


def processor_seconds(pid: int) -> float:
    """CPU that a process and all below it have taken."""
    ticks = 0
    for each in tree(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
