"""Starts a simulator: in the process that asks, or as a server of its own."""

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from granian import Granian
from granian.constants import Interfaces
from granian.http import HTTP1Settings
from granian.log import LogLevels
from werkzeug.serving import WSGIRequestHandler, make_server

from simulator.api import create_api
from simulator.apps import SimApp
from simulator.world import World

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["SimApp", "Simulator", "create_simulator", "running", "serve"]

#: Threads of the server: calls that wait (latency, registration checks) hold up no others.
THREADS = 32
#: Seconds that calls in hand get when the server is told to stop.
GRACE = 1
#: Seconds that an idle client connection stays open.
KEEP_ALIVE = 75
#: Seconds between two looks whether the server's own process is there.
LOOK_SECONDS = 1.0


class Simulator(World):
    """A World with its HTTP face, `wsgi`."""

    def __init__(self, apps: Sequence[SimApp], users: int, seed: int) -> None:
        super().__init__(apps, users, seed)
        self.wsgi: WSGIApplication = create_api(self)


def create_simulator(apps: Sequence[SimApp], users: int, seed: int) -> Simulator:
    """A simulator that plays these apps, each in an organisation of exactly `users` people.

    Apps with one corp_id share it. ValueError when there are no users or two apps share a name.
    """
    return Simulator(apps, users, seed)


def serve(simulator: Simulator, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT.

    Requests are parsed by a server in Rust, without Python's lock; what it costs is mostly ours.
    """
    # It serves from a child, to which the organisation goes as it is in memory.
    multiprocessing.set_start_method("fork", force=True)
    keep_alive = HTTP1Settings(header_read_timeout=KEEP_ALIVE * 1000)
    Granian(
        "simulator",
        str(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][4][0]),  # it takes no names
        port,
        interface=Interfaces.WSGI,
        blocking_threads=THREADS,
        http1_settings=keep_alive,
        log_level=LogLevels.error,
        workers_kill_timeout=GRACE,
    ).serve(target_loader=lambda: _loaded(simulator), wrap_loader=False)


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


def _loaded(simulator: Simulator) -> "WSGIApplication":
    """Called in the child."""
    threading.Thread(target=_end_with, args=(os.getppid(),), name="parent", daemon=True).start()
    simulator.resume()
    return simulator.wsgi


def _end_with(parent: int) -> None:
    """Nobody else tells a child that its parent was killed."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os._exit(1)
