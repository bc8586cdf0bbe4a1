"""Real servers for tests: started on free ports or sockets of their own, stopped at the end."""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import redis
import sqlalchemy as sa

from bridge import embedded


def wait_until(condition: Callable[[], object], seconds: float = 10, what: str = "", every: float = 0.01) -> None:
    """Return once `condition` is true; fail after `seconds`. It is looked at `every` so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds} s in vain for {what or condition}")
        time.sleep(every)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(count: int, host: str = "127.0.0.1") -> int:
    """The first of so many free ports in a row, below those that the system gives to tests that run beside this one."""
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as tried:
                    tried.bind((host, port))
        except OSError:
            continue
        return first


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

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url)

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


class PostgreSQLServer:
    """A private server on a Unix socket; it can be stopped and started again."""

    def __init__(self, binaries: Path, folder: str) -> None:
        self._binaries = binaries
        self._folder = folder
        self._data = f"{folder}/data"
        self._port = str(free_port())
        self._prefix: list[str] = []
        if os.getuid() == 0:  # PostgreSQL refuses to run as root
            account = pwd.getpwnam("postgres")
            os.chown(folder, account.pw_uid, account.pw_gid)
            self._prefix = ["runuser", "-u", "postgres", "--"]
        self.url = f"postgresql+psycopg://postgres@/{{database}}?host={folder}&port={self._port}"
        initdb = [f"{binaries}/initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run([*self._prefix, *initdb], check=True, stdout=subprocess.DEVNULL, cwd="/")
        self.start()

    def start(self) -> None:
        where = ["-c", f"unix_socket_directories={self._folder}", "-c", f"port={self._port}"]
        options = ["-c", "max_connections=200", "-c", "listen_addresses="]
        command = [*self._prefix, f"{self._binaries}/postgres", "-D", self._data, *where, *options]
        log = Path(self._folder) / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output, cwd="/")
        ready = [f"{self._binaries}/pg_isready", "-h", self._folder, "-p", self._port, "-q"]
        wait_until(lambda: subprocess.run(ready).returncode == 0, 30, f"PostgreSQL, see {log.read_text()}")

    def stop(self) -> None:
        """At once, as a crash: clients lose their connections, and the next start recovers from the log."""
        command = [*self._prefix, f"{self._binaries}/pg_ctl", "-D", self._data, "-m", "immediate", "stop"]
        subprocess.run(command, cwd="/", check=False, stdout=subprocess.DEVNULL)
        self._process.wait(10)


@contextmanager
def postgresql_process() -> Iterator[PostgreSQLServer]:
    """A server of its own."""
    binaries = postgresql_binaries()
    if binaries is None:
        missing("PostgreSQL")
        return
    with TemporaryDirectory(prefix="dingbridge-pg-", ignore_cleanup_errors=True) as folder:
        server = PostgreSQLServer(binaries, folder)
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def running_postgresql() -> Iterator[str]:
    """A `postgresql+psycopg://` URL without a database name, on a socket of its own."""
    with postgresql_process() as server:
        yield server.url


@contextmanager
def fresh_database(url: str) -> Iterator[str]:
    """The URL of an empty database on that server, dropped at the end."""
    name = f"test_{uuid.uuid4().hex}"
    admin = sa.create_engine(url.format(database="postgres"), isolation_level="AUTOCOMMIT", pool_pre_ping=True)
    with admin.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    yield url.format(database=name)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()
