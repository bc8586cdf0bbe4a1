"""A whole installation for tests: a simulated DingTalk, a datastore, a worker in this process, a real receiver."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import urllib3
import yaml

from bridge.config import Config
from bridge.events import queue_names
from ops import compose, simulation
from ops.compose import Parts
from simulator.server import Simulator, create_simulator, running
from tests.servers import free_port, wait_until
from workers.batch import BatchWorker
from workers.store import migrate, tables
from workers.store.engine import open_store

AES_KEY = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQ"
ROOT = Path(__file__).parent.parent
CORP = "dingcorp0123456789abcdef0123456789ab"


def settings(**changed: Any) -> dict[str, Any]:
    """A configuration with one internal app; `changed` replaces whole sections."""
    app = {
        "name": "acme",
        "kind": "internal",
        "keys": [{"token": "tok3nForTests", "aes_key": AES_KEY}],
        "owner_keys": ["dingtestappkey00001", CORP],
        "corp_id": CORP,
        "app_key": "dingtestappkey00001",
        "app_secret": "s3cretForTests",
    }
    return {"apps": [app], **changed}


@dataclass
class Installation:
    config: Config
    simulator: Simulator
    parts: Parts
    worker: BatchWorker
    settings: dict[str, Any]
    folder: Path
    #: Where the simulator's callbacks go.
    port: int
    #: Receivers that run, by port.
    receivers: dict[int, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def work_off(self, seconds: float = 60) -> None:
        """Let the worker work until no event, put-off job or noted read is left."""
        wait_until(self._idle, seconds, "the worker to be idle")

    def _idle(self) -> bool:
        if self.worker.turn():
            return False
        connection = self.parts.connection
        keys = (f"{kind}:{name}" for kind in ("rq:queue", "rq:scheduled") for name in queue_names())
        left = [key for key in keys if connection.exists(key)]
        with self.parts.store.reading() as sql:
            left += sql.scalars(sa.select(tables.reads.c.entity_id)).all()
        if left:
            self.worker.wait()
        return not left

    def rows(self, table: sa.Table) -> list[dict[str, Any]]:
        with self.parts.store.reading() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    @contextmanager
    def receiving(self, port: int | None = None) -> Iterator[str]:
        """A real gunicorn receiver, where the simulator calls back unless another port is given; its base URL."""
        port = port or self.port
        environment = self.environment() | {"PORT": str(port), "BRIDGE_VAR": str(self.folder / f"var-{port}")}
        command = [sys.executable, "-m", "ops", "serve"]
        process = subprocess.Popen(command, env=environment, cwd=self.folder)
        self.receivers[port] = process
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: answers(f"{url}/readyz"), 60, "the receiver")
            yield url
        finally:
            process.terminate()
            process.wait(30)

    def environment(self) -> dict[str, str]:
        """For processes of ours: the same configuration from a file."""
        path = self.folder / "config.yaml"
        path.write_text(yaml.safe_dump(self.settings, allow_unicode=True))
        return {**os.environ, "BRIDGE_CONFIG": str(path), "PYTHONPATH": str(ROOT)}


@contextmanager
def installed(
    redis_url: str, datastore_url: str, folder: Path, users: int = 30, seed: int = 1, **changed: Any
) -> Iterator[Installation]:
    """An installation whose worker runs when `work_off` is called. Reads settle after a second, calls have no limit."""
    dingtalk: Mapping[str, Any] = {"settle_seconds": 1, "calls_per_second": 0, **changed.pop("dingtalk", {})}
    base = {"redis": {"url": redis_url}, "datastore": {"url": datastore_url}, "var": str(folder / "var")}
    config = Config.model_validate(settings(**base, dingtalk=dingtalk, **changed))
    port = free_port()
    receiver = f"http://127.0.0.1:{port}"
    simulator = create_simulator([simulation.sim_app(app, receiver) for app in config.apps], users, seed)
    with running(simulator) as api:
        given = settings(**base, dingtalk={**dingtalk, "api": api}, **changed)
        config = Config.model_validate(given)
        store = open_store(datastore_url)
        migrate.migrate(store)
        store.close()
        parts = compose.open_parts(config)
        worker = compose.sync_worker(parts, queue_names())
        try:
            yield Installation(config, simulator, parts, worker, given, folder, port)
        finally:
            parts.close()


def answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, retries=False, timeout=2).status == 200
    except urllib3.exceptions.HTTPError:
        return False
