"""The receiver under gunicorn: `python -m ops.serve` in an environment where its processes share their metrics."""

import contextlib
import os
import shutil
import sys

import redis
import structlog
from flask import Flask

from bridge import config as configuration
from bridge import heap, python, queues, safety
from bridge.config import Config
from bridge.metrics import MULTIPROCESS_VARIABLE
from bridge.queues import Patience
from bridge.receiver import create_receiver
from ops import logs, supervisor
from ops.gather import Gatherer
from ops.web import WebServer, bind_address

#: Processes of the receiver, and their threads: for pages, and for requests that come slowly or are no plain callbacks.
WORKERS = 2
THREADS = 16
#: Heaps of a process. glibc gives each thread one of its own, and each grows: 61 MiB against 47 after 120 000 events.
HEAPS = "2"
#: Seconds for the port to be let go: the processes of a killed predecessor end within one or two.
PORT_SECONDS = 5.0

log = structlog.get_logger()


def start(config: Config) -> None:
    """Become the receiver: this process goes on as gunicorn's, with shared metrics.

    Raises RedisUnusable where a setting of Redis can lose events. One that is away is told by the receiver itself, and
    is no reason to stay away too: the spool takes what comes.
    """
    with contextlib.suppress(redis.RedisError):
        safety.check(queues.connect(config, Patience.RECEIVER), config.redis.accept_unsafe)
    folder = config.var.resolve() / "metrics"
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # as on a full disk; its processes tell
        folder.mkdir(parents=True)
    environment = {"MALLOC_ARENA_MAX": HEAPS, **os.environ, MULTIPROCESS_VARIABLE: str(folder)}
    os.execve(sys.executable, python.command("ops.serve"), environment)  # noqa: S606


def main() -> None:
    """The process that `start` becomes."""
    logs.configure("serve")
    supervisor.end_with_supervisor()
    config = configuration.load()
    port = configuration.port("serve")

    def make() -> Flask:
        app = create_receiver(config, queues.connect(config, Patience.RECEIVER))
        heap.settle()
        return app

    log.info("receiving", callbacks=f"http://{bind_address(config.listen, port)}/callback/<app>")
    WebServer(make, config.listen, port, WORKERS, THREADS, {"proc_name": "dingbridge-serve"}, Gatherer).run()


if __name__ == "__main__":
    main()
