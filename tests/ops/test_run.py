"""`dingbridge run --demo`, wherever it is called: an event is soon applied, what dies comes back, all stops."""

import io
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
import yaml

from bridge import embedded
from ops.run import Screen
from tests.installation import answers, settings
from tests.servers import free_ports, wait_until

ROOT = Path(__file__).parent.parent.parent
#: An address of this machine that is not the usual one; macOS has no other.
HOST = "127.0.0.2" if sys.platform == "linux" else "127.0.0.1"


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int, Path]]:
    """In a folder with packages called like ours, on an address of its own, in an environment of production."""
    shipped = (ROOT / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(shipped.replace("listen: 127.0.0.1", f"listen: {HOST}"))
    for name in ("bridge", "workers", "ops", "simulator"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('not ours')")
    port = free_ports(3, HOST)
    given = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE")}
    given |= {"PYTHONPATH": str(ROOT), "PORT": str(port)}
    given |= {"REDIS_URL": "redis://127.0.0.1:1", "DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}
    output = tmp_path / "output"
    with output.open("wb") as log:
        command = [sys.executable, "-P", "-m", "ops", "run", "--demo"]
        process = subprocess.Popen(command, env=given, cwd=tmp_path, stdout=log, stderr=log)
    try:
        yield process, port, tmp_path
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(10)


def ours(folder: Path) -> list[int]:
    """Every process that works in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if (entry / "cwd").resolve() == folder or str(folder) in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def sync_worker(folder: Path) -> int:
    """The process of the worker that takes events, as RQ knows it."""
    with closing(redis.Redis(unix_socket_path=str(embedded.socket_path(folder / "var")))) as client:
        known = [client.hgetall(key) for key in client.smembers("rq:workers")]
    (pid,) = [int(worker[b"pid"]) for worker in known if b"user_add_org" in worker[b"queues"].split(b",")]
    return pid


def test_the_demonstration(demo: tuple["subprocess.Popen[bytes]", int, Path]) -> None:
    process, port, folder = demo
    output = folder / "output"

    def applied() -> int:
        try:
            with closing(sqlite3.connect(f"file:{folder}/var/dingbridge.db?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM events WHERE status = 'applied'").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    # Where nobody else computes it takes a few seconds.
    wait_until(lambda: applied() > 0, 60, "the first applied event")
    wait_until(lambda: re.search(r"user_add_org +applied", output.read_text()), 20, "its line")
    shown = output.read_text()
    for address in (f"{HOST}:{port}/callback/acme", f"{HOST}:{port + 1}", f"{HOST}:{port + 2}/_sim"):
        assert address in shown
    assert answers(f"http://{HOST}:{port}/readyz")
    assert answers(f"http://{HOST}:{port + 1}/healthz")
    wait_until(lambda: "departments, people and role lists copied" in output.read_text(), 60, "the first copy")
    told = re.search(r"elsewhere +(.*)", shown)
    assert told is not None
    elsewhere = {name: value for name, value in os.environ.items() if name != "PORT"} | {"PYTHONPATH": str(ROOT)}
    changed = subprocess.run(told[1], shell=True, env=elsewhere, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (changed.returncode, "user_leave_org called back at acme" in changed.stdout) == (0, True), changed.stderr
    assert not re.search("Traceback|ended with", output.read_text())

    os.kill(sync_worker(folder), signal.SIGKILL)
    wait_until(lambda: "ended with signal SIGKILL; starts again" in output.read_text(), 10, "the news of it")
    count = applied()
    wait_until(lambda: applied() > count, 40, "the worker's successor")

    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    wait_until(lambda: ours(folder) == [], 2, "every process to be gone")


def test_a_second_one_says_that_the_port_is_taken(demo: tuple["subprocess.Popen[bytes]", int, Path]) -> None:
    _, port, folder = demo
    wait_until(lambda: answers(f"http://{HOST}:{port}/readyz"), 60, "the receiver")
    given = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(port)}
    command = [sys.executable, "-P", "-m", "ops", "run", "--demo"]
    second = subprocess.run(command, env=given, cwd=folder, capture_output=True, text=True, timeout=60)
    assert second.returncode == 1
    assert f"port {port}" in second.stderr
    assert "Traceback" not in second.stderr


def test_ctrl_c_is_heard_while_it_starts(tmp_path: Path) -> None:
    """Here the datastore takes a connection, and says nothing."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        given = {**os.environ, "PYTHONPATH": str(ROOT), "PORT": str(free_ports(2))}
        given["DATABASE_URL"] = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d?connect_timeout=120"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings()))
        command = [sys.executable, "-m", "ops", "run"]
        with subprocess.Popen(command, env=given, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
            asked, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            with asked:
                _, said = process.communicate(timeout=60)  # the embedded Redis has only just begun, and ends first
    assert (process.returncode, "Traceback" in said) == (1, False), said
    assert ours(tmp_path) == []


@pytest.mark.parametrize("fault", [OSError, BrokenPipeError, ValueError])
def test_a_screen_that_is_gone_ends_nothing(fault: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise fault

        def fileno(self) -> int:
            return spare

    spare = os.open(os.devnull, os.O_WRONLY)  # Rich redirects it where nobody reads the pipe
    screen, back = Screen(), io.StringIO()
    with monkeypatch.context() as moment:
        moment.setattr(sys, "stdout", Gone())
        screen.note("lost")
    os.close(spare)
    monkeypatch.setattr(sys, "stdout", back)
    screen.note("seen")
    assert "lost" not in back.getvalue()
    assert "seen" in back.getvalue()
