"""An installation of real processes under the product's own supervisor, with a client that posts to it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import sqlalchemy as sa
import yaml

from bridge.events import queue_names
from ops.supervisor import Process, Supervisor
from tests.chaos.client import Outcome
from tests.chaos.jobs import RAN_VARIABLE
from tests.installation import ROOT, answers, settings
from tests.servers import (
    PostgreSQLServer,
    RedisServer,
    free_port,
    fresh_database,
    postgresql_process,
    redis_process,
    wait_until,
)
from workers.store import migrate, tables
from workers.store.engine import Store, open_store

#: People of the simulated organisation: so few that reads fold, as this is about durability.
USERS = 40
#: Seconds until a process of the installation answers.
START_SECONDS = 60
#: One machine plays all hosts: the receivers', Redis' and the client's come before the rest, by so much.
NICENESS = 10


class Site:
    """One installation; its processes are named serve, work-1, work-2, jobs-1, jobs-2, clock and simulate."""

    def __init__(self, folder: Path, redis: RedisServer, redis_url: str, datastore_url: str, spool: Path) -> None:
        self.folder = folder
        self.redis = redis
        self.redis_port = int(redis_url.rpartition(":")[2])
        self.port, self.second_port = free_port(), free_port()
        self.datastore_url = datastore_url
        self.postgresql: PostgreSQLServer | None = None
        self.spool = spool
        self._ran = folder / "ran"
        self._log = (folder / "log").open("w", buffering=1)
        self._stopping = threading.Event()
        api = free_port()
        self.api_url = f"http://127.0.0.1:{api}"
        self.settings = settings(
            redis={"url": redis_url},
            datastore={"url": datastore_url},
            var=str(spool.parent),
            dingtalk={"api": self.api_url, "calls_per_second": 0, "settle_seconds": 5},
            jobs=["tests.chaos.jobs"],
        )
        (folder / "config.yaml").write_text(yaml.safe_dump(self.settings))
        paths = {"BRIDGE_CONFIG": str(folder / "config.yaml"), "PYTHONPATH": str(ROOT), RAN_VARIABLE: str(self._ran)}
        self.environment = {**os.environ, **paths}
        self._processes = [
            Process("simulate", ["simulate", "--users", str(USERS)], {"PORT": str(api)}),
            Process("serve", ["serve"], {"PORT": str(self.port)}),
            Process("work-1", ["work"]),
            Process("work-2", ["work"]),
            Process("jobs-1", ["jobs"]),
            Process("jobs-2", ["jobs"]),
            Process("clock", ["clock"]),
        ]
        self.second = Process(
            "serve-2", ["serve"], {"PORT": str(self.second_port), "BRIDGE_VAR": str(folder / "var-2")}
        )

    def start(self, second_receiver: bool) -> None:
        """All of it, with a full copy of the organisation made."""
        store = open_store(self.datastore_url)
        migrate.migrate(store)
        store.close()
        self._processes += [self.second] * second_receiver
        supervisor = Supervisor(self._processes, self.environment, self._say)
        self._supervising = threading.Thread(target=supervisor.run, args=(self._stopping,))
        self._supervising.start()
        threading.Thread(target=self._put_workers_last, daemon=True).start()
        for url in (f"{self.api_url}/_sim", f"http://127.0.0.1:{self.port}/readyz"):
            wait_until(lambda url=url: answers(url), START_SECONDS, url)  # type: ignore[misc]
        if second_receiver:
            wait_until(lambda: answers(f"http://127.0.0.1:{self.second_port}/readyz"), START_SECONDS, "serve-2")
        sync = [sys.executable, "-m", "ops", "sync"]
        subprocess.run(sync, env=self.environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        self._stopping.set()
        self._supervising.join()
        self._log.close()

    def _put_workers_last(self) -> None:
        """Linux weighs sessions against each other (autogroup), and processes where that is switched off."""
        while not self._stopping.wait(1):
            for process in self._processes:
                running = process.running
                if process.name.startswith("serve") or running is None:
                    continue
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                    os.setpriority(os.PRIO_PROCESS, running.pid, NICENESS)
                    Path(f"/proc/{running.pid}/autogroup").write_text(str(NICENESS))

    def _say(self, name: str, line: str) -> None:
        self._log.write(f"{time.time():.3f} {name}: {line}\n")

    def process(self, name: str) -> Process:
        """One of them, by its name."""
        return next(process for process in self._processes if process.name == name)

    def pid(self, name: str) -> int | None:
        """Its process id while it runs; `gunicorn` stands for one of the receiver's workers."""
        running = self.process("serve" if name == "gunicorn" else name).running
        if running is None or running.poll() is not None:
            return None
        if name != "gunicorn":
            return running.pid
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        return int(children[0]) if children else None

    def kill(self, name: str) -> bool:
        """kill -9; False where it does not run at the moment."""
        pid = self.pid(name)
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def ran(self) -> set[str]:
        """Ids of the events whose job ran."""
        return set(self._ran.read_text().split()) if self._ran.exists() else set()

    def final(self) -> dict[str, tuple[str, str | None]]:
        """Status and error of each event that has its row."""
        columns = tables.events.c
        with self._store() as store, store.reading() as connection:
            rows = connection.execute(sa.select(columns.id, columns.status, columns.error))
            return {row.id: (row.status, row.error) for row in rows}

    @contextmanager
    def _store(self) -> Iterator[Store]:
        store = open_store(self.datastore_url)
        try:
            yield store
        finally:
            store.close()

    def waiting(self) -> int:
        """Events that Redis holds."""
        with self.redis.client() as client:
            return sum(client.llen(f"rq:queue:{name}") for name in queue_names())

    @contextmanager
    def client(self, rate: float, port: int) -> Iterator[Callable[[], list[Outcome]]]:
        """Callbacks at that rate to a port of this machine; what is given ends them and returns their outcomes."""
        out = self.folder / "outcomes.json"
        given = self.folder / "client.json"
        departments, users = tables.departments.c.dept_id, tables.users.c.userid
        with self._store() as store, store.reading() as connection:
            known = {
                "users": list(connection.scalars(sa.select(users))),
                "departments": list(connection.scalars(sa.select(departments).where(departments != 1))),
            }
        given.write_text(json.dumps({"config": self.settings, **known}))
        arguments: Sequence[str] = [str(given), f"http://127.0.0.1:{port}", str(rate), str(out)]
        process = subprocess.Popen([sys.executable, "-m", "tests.chaos.client", *arguments], env=self.environment)

        def end() -> list[Outcome]:
            process.terminate()
            if process.wait(60):
                raise RuntimeError(f"the client ended with {process.returncode}")
            return msgspec.json.decode(out.read_bytes(), type=list[Outcome])

        try:
            yield end
        finally:
            process.kill()
            process.wait()

    def tail(self, lines: int = 40) -> str:
        """The end of what the processes said."""
        return "\n".join((self.folder / "log").read_text().splitlines()[-lines:])


@contextmanager
def site(datastore: str, small_disk: bool = False, second_receiver: bool = False) -> Iterator[Site]:
    """An installation on a Redis and a datastore of its own; on a small disk its spool is full after a few MiB."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dingbridge-chaos-")))
        port = free_port()
        redis = stack.enter_context(redis_process("--port", str(port), "--bind", "127.0.0.1"))
        url, postgresql = f"sqlite:///{folder}/data/dingbridge.db", None
        if datastore == "postgresql":
            postgresql = stack.enter_context(postgresql_process())
            url = stack.enter_context(fresh_database(postgresql.url))
        var = folder / "var"
        var.mkdir()
        if small_disk:
            stack.enter_context(_mounted(var))
        place = Site(folder, redis, f"redis://127.0.0.1:{port}", url, var / "spool")
        place.postgresql = postgresql
        try:
            place.start(second_receiver)
            yield place
        finally:
            place.stop()


@contextmanager
def _mounted(folder: Path) -> Iterator[None]:
    """A disk of its own that holds a few MiB more than what the spool leaves to others."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
