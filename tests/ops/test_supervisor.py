"""Nothing that a process does, nor a terminal that is gone, ends its supervisor or holds up another process."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from ops.cli import main
from ops.logs import SUPERVISED_VARIABLE
from ops.supervisor import GRACE_SECONDS, RESTART_SECONDS, PortInUse, Process, Supervisor, check_ports, until_told
from ops.verbs import labour
from tests.installation import ROOT, answers, settings
from tests.servers import free_port, wait_until
from workers import jobs
from workers.registry import Registry

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ended(deaths: int) -> Process:
    """A process that has just died once more."""
    process = Process("one", [], deaths=deaths, started=time.monotonic())
    process.running = subprocess.Popen([sys.executable, "-c", ""], text=True)
    process.running.wait()
    return process


def test_one_that_dies_for_ever_is_started_for_ever() -> None:
    said: list[str] = []
    process = ended(2000)
    Supervisor([process], {}, lambda _name, line: said.append(line))._look_after(process)
    assert said == [f"ended with exit code 0; starts again in {RESTART_SECONDS[1]:g} s"]
    assert process.running is None


PROGRAM = """
import os, sys, threading
from ops.supervisor import Process, Supervisor
one = Process("simulate", ["simulate", "--users", "5"], {"PORT": sys.argv[1]})
Supervisor([one], os.environ, lambda name, line: None).run(threading.Event())
"""


def test_its_processes_end_with_one_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings()))
    port = free_port()
    environment = {**os.environ, "BRIDGE_CONFIG": str(tmp_path / "config.yaml"), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], env=environment, cwd=tmp_path) as supervisor:
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/_sim"), 30)
        finally:
            supervisor.kill()
    wait_until(lambda: not answers(f"http://127.0.0.1:{port}/_sim"), 10)


@pytest.mark.parametrize("fault", [OSError, ValueError])
def test_what_cannot_be_told_holds_up_no_process(fault: type[Exception]) -> None:
    def say(_name: str, _line: str) -> None:
        raise fault

    process = ended(0)
    supervisor = Supervisor([process], {}, say)
    supervisor._look_after(process)
    assert process.running is None
    command = [sys.executable, "-c", "print('a line\\n' * 100_000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        reader = threading.Thread(target=supervisor._relay, args=("one", running), daemon=True)
        reader.start()
        try:
            assert running.wait(20) == 0
        finally:
            running.kill()
            reader.join()


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of before, afterwards."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", SIGNALS)
def test_every_end_is_told(signum: signal.Signals, handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    stopping = until_told()
    signal.raise_signal(signum)
    assert stopping.is_set()


def test_under_nohup_the_end_of_the_terminal_is_none(handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stopping = until_told()
    signal.raise_signal(signal.SIGHUP)
    assert not stopping.is_set()


def test_what_does_not_end_is_killed_after_its_grace() -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    process = Process("one", [])
    process.running = subprocess.Popen(
        [sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with process.running as running:
        assert running.stdout is not None and running.stdout.readline() == "on\n"
        begun = time.monotonic()
        Supervisor([process], {}, lambda _name, _line: None, grace=0.1)._stop()
        assert (running.returncode, time.monotonic() - begun < 4) == (-signal.SIGKILL, True)


def test_an_address_that_cannot_be_listened_on_is_told_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(PortInUse, match=r"no such host port 1: .*; see listen in config.yaml"):
        check_ports("no such host", {"serve": 1}, patience=60)
    assert time.monotonic() - begun < 30


def first(event: object, directory: object) -> None:
    """A function of a user's."""


def second(event: object, directory: object) -> None:
    """Another."""


@pytest.mark.parametrize("supervised", [True, False])
def test_workers_of_several_queues_end_before_their_supervisors_supervisor_kills_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, supervised: bool
) -> None:
    """Else they would outlive it; and with nobody above them they may end what they have in hand."""
    graces: list[float] = []

    class Fake:
        def __init__(self, processes: Sequence[Process], _environ: object, _say: object, grace: float) -> None:
            assert [process.name for process in processes] == ["a", "b"]
            graces.append(grace)

        def run(self, _stopping: threading.Event) -> None:
            """Nothing."""

    registry = Registry()
    registry.on("user_add_org", queue="a")(first)
    registry.on("user_add_org", queue="b")(second)
    monkeypatch.setattr(labour, "Supervisor", Fake)
    monkeypatch.setattr(jobs, "load_registry", lambda _config: registry)
    monkeypatch.setattr(labour, "until_told", threading.Event)
    monkeypatch.delenv(SUPERVISED_VARIABLE, raising=False)
    if supervised:
        monkeypatch.setenv(SUPERVISED_VARIABLE, "1")
    datastore = {"url": f"sqlite:///{tmp_path}/d.db"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings(datastore=datastore)))
    monkeypatch.setenv("BRIDGE_CONFIG", str(tmp_path / "config.yaml"))
    assert CliRunner().invoke(main, ["migrate"]).exit_code == 0
    result = CliRunner().invoke(main, ["jobs", "a", "b"])
    assert result.exit_code == 0, result.output
    assert (graces[0] < GRACE_SECONDS) == supervised
