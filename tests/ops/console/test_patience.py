"""The console answers while Redis or the datastore hangs: it takes connections and says nothing."""

import signal
import socket
import time
from pathlib import Path

from bridge import queues
from bridge.config import Config
from bridge.queues import Patience
from ops.console.app import create_console
from ops.verbs.web import CONSOLE_CONNECT_SECONDS
from tests.installation import settings
from tests.ops.console.visitor import PASSWORD, Visitor
from tests.servers import redis_process
from workers.store import migrate
from workers.store.engine import open_store

#: Seconds within which each page must be there.
PAGE_SECONDS = 8


def visit(redis_url: str, datastore_url: str) -> Visitor:
    given = settings(redis={"url": redis_url}, console={"users": {"admin": PASSWORD}})
    config = Config.model_validate(given)
    store = open_store(datastore_url, CONSOLE_CONNECT_SECONDS)
    visitor = Visitor(create_console(config, queues.connect(config, Patience.CONSOLE), store).test_client())
    visitor.log_in()
    return visitor


def told(visitor: Visitor, page: str, status: int, line: str) -> None:
    begun = time.monotonic()
    answer = visitor.get(page)
    assert time.monotonic() - begun < PAGE_SECONDS
    assert (answer.status_code, line in answer.text) == (status, True)


def test_while_redis_hangs(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/d.db"
    store = open_store(url)
    migrate.migrate(store)
    store.close()
    with redis_process() as server:
        visitor = visit(server.url, url)
        server.process.send_signal(signal.SIGSTOP)
        told(visitor, "/parts/queues", 200, "Redis does not answer")
        told(visitor, "/", 200, "Redis does not answer")
        told(visitor, "/rq/0/data/queues.json", 503, "Redis does not answer")
        told(visitor, "/metrics", 200, 'dingbridge_up{component="redis"} 0.0')


def test_while_the_datastore_hangs(redis_url: str) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        visitor = visit(redis_url, f"postgresql+psycopg://me:word@127.0.0.1:{silent.getsockname()[1]}/d")
        told(visitor, "/parts/events", 200, "The datastore does not answer")
        told(visitor, "/metrics", 200, 'dingbridge_up{component="datastore"} 0.0')
