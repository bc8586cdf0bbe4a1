"""`/readyz` under a real gunicorn: 200 as long as Redis or the spool would take an event, and soon."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis
import urllib3
import yaml

from bridge import embedded
from tests.installation import ROOT, Installation, answers, installed, settings
from tests.servers import RedisServer, free_port, redis_process, wait_until

Trouble = Callable[[RedisServer], AbstractContextManager[None]]
#: A load balancer takes a receiver out that takes longer.
SECONDS = 1.0


@contextmanager
def killed(server: RedisServer) -> Iterator[None]:
    server.kill()
    yield
    server.start()


@contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    server.process.send_signal(signal.SIGSTOP)
    yield
    server.process.send_signal(signal.SIGCONT)


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def replica(server: RedisServer) -> Iterator[None]:
    with redis.Redis.from_url(server.url) as client:
        client.replicaof("127.0.0.1", free_port())
        yield
        client.replicaof("NO", "ONE")


def ready(url: str) -> tuple[int, dict[str, str]]:
    """The answer, which must come soon."""
    begun = time.monotonic()
    answer = urllib3.request("GET", f"{url}/readyz", retries=False, timeout=5)
    assert time.monotonic() - begun < SECONDS
    body = json.loads(answer.data)
    assert body["ready"] == (answer.status == 200)
    return answer.status, body["components"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_process() as running:
        yield running


@pytest.fixture(scope="module")
def place(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder: Path = tmp_path_factory.mktemp("readyz")
    with installed(server.url, f"sqlite:///{folder}/d.db", folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def with_spool(place: Installation) -> Iterator[str]:
    with place.receiving() as url:
        yield url


@pytest.fixture(scope="module")
def without_spool(place: Installation) -> Iterator[str]:
    port = free_port()
    var = place.folder / f"var-{port}"
    var.mkdir()
    (var / "spool").write_text("a file where the folder belongs")
    wait_until(lambda: place.parts.connection.ping(), what="Redis")
    with place.receiving(port) as url:
        yield url


@pytest.mark.parametrize("trouble", [killed, stopped, full, replica])
def test_the_spool_is_enough(with_spool: str, server: RedisServer, trouble: Trouble) -> None:
    assert ready(with_spool) == (200, {"redis": "up", "spool": "up"})
    with trouble(server):
        for _ in range(8):
            assert ready(with_spool) == (200, {"redis": "down", "spool": "up"})
    wait_until(lambda: ready(with_spool)[1]["redis"] == "up", what="Redis to be seen again")


@pytest.mark.parametrize("trouble", [killed, stopped, full, replica])
def test_redis_is_enough_and_neither_is_not(without_spool: str, server: RedisServer, trouble: Trouble) -> None:
    assert ready(without_spool) == (200, {"redis": "up", "spool": "down"})
    with trouble(server):
        for _ in range(8):
            assert ready(without_spool) == (503, {"redis": "down", "spool": "down"})
    wait_until(lambda: ready(without_spool)[0] == 200, what="Redis to be seen again")


#: A process that keeps the embedded server of a folder as long as it lives.
HOLDER = "import sys, pathlib, bridge.embedded as e; e.ensure(pathlib.Path(sys.argv[1])); input()"


def test_it_does_not_wait_for_the_embedded_redis(tmp_path: Path) -> None:
    """That may be reading a long file: the spool is enough."""
    var, port = tmp_path / "var", free_port()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings(redis={"url": "embedded"}, var=str(var))))
    environment = {**os.environ, "BRIDGE_CONFIG": str(tmp_path / "config.yaml"), "PORT": str(port)}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(var)], cwd=ROOT, stdin=subprocess.PIPE)
    with redis.Redis(unix_socket_path=str(embedded.socket_path(var)), retry=embedded.NO_RETRY) as client:
        wait_until(lambda: embedded.answers(embedded.socket_path(var)), what="Redis")
        pid = client.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    receiver = subprocess.Popen([sys.executable, "-m", "ops", "serve"], cwd=ROOT, env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/readyz"), embedded.START_SECONDS / 2, "the receiver")
        assert ready(url) == (200, {"redis": "down", "spool": "up"})
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: ready(url)[1]["redis"] == "up", what="Redis to be seen")
    finally:
        os.kill(pid, signal.SIGCONT)
        for process in (receiver, holder):
            process.terminate()
            process.communicate(timeout=30)
        embedded.stop(var)
