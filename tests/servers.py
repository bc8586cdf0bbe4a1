"""Real servers for tests: started on free ports or sockets of their own, stopped at the end."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis

from bridge import embedded


def wait_until(condition: Callable[[], object], seconds: float = 10, what: str = "") -> None:
    """Return once `condition` is true; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what or condition}")
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def missing(what: str) -> None:
    """A part that is missing skips on a laptop and fails in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is not installed")


class RedisServer:
    """A private server with the settings of the embedded one; it can be killed and started again."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.path = folder / "redis.sock"
        self.url = f"unix://{self.path}"
        self._command = [embedded.program(), "--unixsocket", str(self.path), "--dir", str(folder)]
        for name, value in embedded.SETTINGS.items():
            self._command += [f"--{name}", value]
        self._command += options
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(lambda: embedded.answers(self.path), what="Redis")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(10)


@contextmanager
def redis_process(*options: str) -> Iterator[RedisServer]:
    """A server of its own for one test."""
    with TemporaryDirectory(prefix="dingbridge-test-") as folder:
        server = RedisServer(Path(folder), options)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_redis(*options: str) -> Iterator[str]:
    """The URL of a private server."""
    with redis_process(*options) as server:
        yield server.url


def flush(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.flushall()


def postgresql_binaries() -> Path | None:
    """The newest installed PostgreSQL's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextmanager
def running_postgresql() -> Iterator[str]:
    """A `postgresql+psycopg://` URL without a database name, on a socket of its own."""
    binaries = postgresql_binaries()
    if binaries is None:
        missing("PostgreSQL")
        return
    prefix: list[str] = []
    with TemporaryDirectory(prefix="dingbridge-pg-", ignore_cleanup_errors=True) as folder:
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            prefix = ["runuser", "-u", "postgres", "--"]
        data, port = f"{folder}/data", str(free_port())
        options = ["-c", f"unix_socket_directories={folder}", "-c", f"port={port}", "-c", "listen_addresses="]
        run = [*prefix, f"{binaries}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(run, check=True, stdout=subprocess.DEVNULL, cwd="/")
        server = [*prefix, f"{binaries}/postgres", "-D", data, "-c", "max_connections=200", *options]
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(server, stdout=output, stderr=output, cwd="/")
        ready = [f"{binaries}/pg_isready", "-h", folder, "-p", port, "-q"]
        try:
            wait_until(lambda: subprocess.run(ready).returncode == 0, 30, f"PostgreSQL, see {log.read_text()}")
            yield f"postgresql+psycopg://postgres@/{{database}}?host={folder}&port={port}"
        finally:
            subprocess.run(
                [*prefix, f"{binaries}/pg_ctl", "-D", data, "-m", "immediate", "stop"],
                cwd="/",
                check=False,
                stdout=subprocess.DEVNULL,
            )
            process.wait(10)
