"""`/readyz` under a real gunicorn: 200 as long as Redis or the spool would take an event, and soon."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import redis
import urllib3

from tests.installation import Installation, installed
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
