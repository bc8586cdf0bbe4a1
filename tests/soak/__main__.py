"""Traffic, faults and kills for so many minutes, then the repair paths; prints the counts, exits 1 on a difference.

`python -m tests.soak [--minutes 30] [--users 20000] [--changes 50] [--datastore sqlite|postgresql]`
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec
import redis
import sqlalchemy as sa
import urllib3
import yaml

from bridge.events import queue_names
from ops.supervisor import Process, Supervisor
from tests.installation import ROOT, answers, settings
from tests.servers import free_port, fresh_database, redis_process, running_postgresql, wait_until
from tests.truth import differing
from workers.store import migrate, tables
from workers.store.engine import Store, open_store

#: What goes wrong all the time; answers lag by less than the settling.
FAULTS = {
    "lose_rate": 0.05,
    "double_rate": 0.2,
    "shuffle_ms": 1000,
    "error_rate": 0.02,
    "lag_seconds": 2,
    "latency_ms": 5,
    "wrap_errors": True,
}
SETTLE_SECONDS = 5
CALLS_PER_SECOND = 200
#: Seconds between two kills, of the one and the other worker in turn.
KILL_SECONDS = 60
#: Seconds until processes answer, and in which nothing may stand still once the traffic has ended.
START_SECONDS, STUCK_SECONDS = 120, 180


class Soak:
    """One installation: simulate, serve, two workers, clock."""

    def __init__(self, folder: Path, redis_url: str, datastore_url: str, users: int) -> None:
        self.connection = redis.Redis.from_url(redis_url)
        self._log = (folder / "log").open("w", buffering=1)
        api, port = free_port(), free_port()
        self.api = f"http://127.0.0.1:{api}"
        self._receiver = f"http://127.0.0.1:{port}"
        dingtalk = {"api": self.api, "calls_per_second": CALLS_PER_SECOND, "settle_seconds": SETTLE_SECONDS}
        given = settings(
            redis={"url": redis_url}, datastore={"url": datastore_url}, var=str(folder / "var"), dingtalk=dingtalk
        )
        (folder / "config.yaml").write_text(yaml.safe_dump(given))
        self.environment = {**os.environ, "BRIDGE_CONFIG": str(folder / "config.yaml"), "PYTHONPATH": str(ROOT)}
        simulate = ["simulate", "--users", str(users), "--callbacks", self._receiver]
        self._processes = [
            Process("simulate", simulate, {"PORT": str(api)}),
            Process("serve", ["serve"], {"PORT": str(port)}),
            Process("work-1", ["work"]),
            Process("work-2", ["work"]),
            Process("clock", ["clock"]),
        ]
        self.store: Store = open_store(datastore_url)
        self.kills = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        migrate.migrate(self.store)
        stopping = threading.Event()
        supervisor = Supervisor(self._processes, self.environment, self._say)
        supervising = threading.Thread(target=supervisor.run, args=(stopping,))
        supervising.start()
        try:
            wait_until(lambda: answers(f"{self.api}/_sim"), START_SECONDS, "the simulator")
            wait_until(lambda: answers(f"{self._receiver}/readyz"), START_SECONDS, "the receiver")
            yield
        finally:
            stopping.set()
            supervising.join()
            self.store.close()
            self._log.close()

    def _say(self, name: str, line: str) -> None:
        self._log.write(f"{name}: {line}\n")

    def ask(self, path: str, method: str = "GET", **given: Any) -> Any:
        """The simulator's control."""
        body = msgspec.json.encode(given) if given else None
        answer = urllib3.request(method, f"{self.api}/_sim{path}", body=body, retries=False, timeout=60)
        if answer.status != 200:
            raise RuntimeError(f"{path}: {answer.data.decode()}")
        return msgspec.json.decode(answer.data)

    def sync(self) -> None:
        self._verb("sync")

    def _verb(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "ops", *arguments]
        ended = subprocess.run(command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if ended.returncode:
            raise RuntimeError(f"{' '.join(arguments)} failed: {ended.stderr.decode()[-500:]}")

    def disturb(self, minutes: float, changes: float) -> None:
        """Traffic and faults, and a kill of a worker now and then."""
        self.ask("/faults", "PUT", **FAULTS)
        self.ask("/traffic", "POST", per_second=changes)
        end = time.monotonic() + minutes * 60
        workers = [process for process in self._processes if process.name.startswith("work")]
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, random.uniform(0.5, 1.5) * KILL_SECONDS))
            running = workers[self.kills % 2].running
            if left > KILL_SECONDS / 2 and running is not None and running.poll() is None:
                running.kill()
                self.kills += 1
            click.echo(f"{self.final().total()} events final, {self.waiting()} wait, {self.kills} kills")
        self.ask("/traffic", "POST", per_second=0)
        self.ask("/faults", "PUT", error_rate=0, lag_seconds=0, latency_ms=0)

    def repair(self) -> None:
        """What makes up for lost events: DingTalk's failed list, and a comparison whose removals somebody allows."""
        self._verb("recover")
        self._verb("heal", "--whole", "--allow-removals")

    def work_off(self) -> None:
        """Until nothing waits any more; fails when nothing moves."""
        seen, moved = (-1, -1), time.monotonic()
        while self.ask("/deliveries")["waiting"] or self.waiting():
            now = (self.final().total(), self.waiting())
            if now != seen:
                seen, moved = now, time.monotonic()
            if time.monotonic() - moved > STUCK_SECONDS:
                raise RuntimeError(f"{now[1]} wait and nothing moves")
            time.sleep(0.5)

    def waiting(self) -> int:
        """Events that Redis holds, and reads that are noted."""
        held = sum(self.connection.llen(key) for key in self.connection.scan_iter("bridge:claimed:*"))
        for name in queue_names():
            held += self.connection.llen(f"rq:queue:{name}") + self.connection.zcard(f"rq:scheduled:{name}")
        with self.store.reading() as sql:
            return int(held) + int(sql.scalar(sa.select(sa.func.count()).select_from(tables.reads)) or 0)

    def final(self) -> Counter[str]:
        """Events with their final row, by status."""
        query = sa.select(tables.events.c.status, sa.func.count()).group_by(tables.events.c.status)
        with self.store.reading() as sql:
            return Counter({row[0]: row[1] for row in sql.execute(query)})

    def differences(self) -> list[str]:
        return differing(self.ask("/truth"), self.store)


@contextmanager
def soak(datastore: str, users: int) -> Iterator[Soak]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="dingbridge-soak-")))
        url = f"sqlite:///{folder}/dingbridge.db"
        if datastore == "postgresql":
            url = stack.enter_context(fresh_database(stack.enter_context(running_postgresql())))
        server = stack.enter_context(redis_process())
        place = Soak(folder, server.url, url, users)
        stack.enter_context(place.running())
        yield place


def main() -> None:
    """The whole run."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--changes", type=float, default=50, help="a second")
    parser.add_argument("--datastore", choices=["sqlite", "postgresql"], default="sqlite")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _signum, _frame: sys.exit(1))  # and stop what was started
    with soak(given.datastore, given.users) as place:
        begun = time.monotonic()
        place.sync()
        click.echo(f"{given.users} people copied in {time.monotonic() - begun:.0f} s")
        place.disturb(given.minutes, given.changes)
        begun = time.monotonic()
        place.work_off()
        lost = len(place.differences())
        click.echo(f"worked off in {time.monotonic() - begun:.0f} s; {lost} rows differ by what was lost")
        place.repair()
        place.work_off()
        left, sent, calls = place.differences(), place.ask("/deliveries"), place.ask("/calls")
        callbacks = ", ".join(f"{sent[state]} {state}" for state in ("delivered", "failed", "lost"))
        statuses = ", ".join(f"{count} {status}" for status, count in sorted(place.final().items()))
    click.echo(
        f"callbacks: {callbacks}\nevents: {statuses}\nAPI calls: {calls['total']}\nworkers killed: {place.kills}"
    )
    for difference in left[:20]:
        click.echo(difference)
    click.echo(f"{len(left)} differences after the repair paths")
    sys.exit(1 if left else 0)


if __name__ == "__main__":
    main()
