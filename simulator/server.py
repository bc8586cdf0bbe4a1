"""Starts a simulator: in the process that asks, or as a server of its own."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from werkzeug.serving import WSGIRequestHandler, make_server

from simulator.api import create_api
from simulator.apps import SimApp
from simulator.world import World

__all__ = ["SimApp", "Simulator", "create_simulator", "running", "serve"]

#: Threads of the server: calls that wait (latency, registration checks) hold up no others.
THREADS = 32
#: Seconds that calls in hand get when the server is told to stop.
GRACE = 1
#: Seconds that an idle client connection stays open.
KEEP_ALIVE = 75


class Simulator(World):
    """A World with its HTTP face: `wsgi` is the Flask app."""

    def __init__(self, apps: Sequence[SimApp], users: int, seed: int) -> None:
        super().__init__(apps, users, seed)
        self.wsgi: Flask = create_api(self)


def create_simulator(apps: Sequence[SimApp], users: int, seed: int) -> Simulator:
    """A simulator that plays these apps, each in an organisation of exactly `users` people.

    Apps with one corp_id share it. ValueError when there are no users or two apps share a name.
    """
    return Simulator(apps, users, seed)


def serve(simulator: Simulator, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; then exits the process."""
    _Server(simulator, host, port).run()


@contextmanager
def running(simulator: Simulator) -> Iterator[str]:
    """Serve in a thread on a free port of this machine; gives the base URL, and closes the simulator at the end."""
    server = make_server("127.0.0.1", 0, simulator.wsgi, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="simulator", daemon=True
    )
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        simulator.close()
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:
        """Requests are counted, not logged."""


class _Server(BaseApplication):  # type: ignore[misc]
    """One gunicorn worker, as the organisation lives in its memory."""

    def __init__(self, simulator: Simulator, host: str, port: int) -> None:
        self._simulator = simulator
        self._bind = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "bind": [self._bind],
            "workers": 1,
            "threads": THREADS,
            "worker_class": "gthread",
            "accesslog": None,
            "loglevel": "warning",
            "graceful_timeout": GRACE,
            "keepalive": KEEP_ALIVE,
            "proc_name": "simulator",
            "worker_exit": lambda server, worker: self._simulator.close(),
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        """Called in the worker, after the fork."""
        self._simulator.resume()
        return self._simulator.wsgi
