"""Every process on this machine under one roof: started, restarted when it dies, stopped together."""

import contextlib
import errno
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bridge import python
from bridge.errors import BridgeError
from ops.logs import SUPERVISED_VARIABLE

#: Seconds that processes get to end by themselves where Ctrl-C has to end all within five.
GRACE_SECONDS = 4.0
#: Seconds until a process that died is started again: the first, doubled up to the second.
RESTART_SECONDS = (0.5, 10.0)
#: Seconds after which a process counts as healthy again.
HEALTHY_SECONDS = 5.0
#: Seconds between two looks of a process whether its supervisor is there.
ORPHAN_SECONDS = 1.0
#: Seconds between two looks at the processes.
LOOK_SECONDS = 0.1


class PortInUse(BridgeError):
    """a port is in use by another program, or cannot be listened on at all"""


@dataclass
class Process:
    """One process of the installation: its name, the verb with its options, its environment's additions."""

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    running: subprocess.Popen[str] | None = None
    deaths: int = 0
    started: float = 0.0
    restart_at: float = 0.0


class Supervisor:
    """Runs processes until it is told to stop; `say(process, line)` gets what they print and what becomes of them."""

    def __init__(
        self,
        processes: Sequence[Process],
        environment: Mapping[str, str],
        say: Callable[[str, str], None],
        grace: float = GRACE_SECONDS,
    ) -> None:
        """`grace`: seconds that processes get to end by themselves; what is left then is killed."""
        self._processes = list(processes)
        self._environment = dict(environment)
        self._say = say
        self._grace = grace
        self._readers: list[threading.Thread] = []

    def run(self, stopping: threading.Event) -> None:
        """Start all, keep them running until `stopping` is set, and stop them; returns when none is left."""
        try:
            for process in self._processes:
                self._start(process)
            while not stopping.wait(LOOK_SECONDS):
                for process in self._processes:
                    self._look_after(process)
        finally:
            self._stop()

    def _start(self, process: Process) -> None:
        process.started = time.monotonic()
        process.running = subprocess.Popen(
            python.command("ops", *process.arguments),
            env={**self._environment, **process.environment, SUPERVISED_VARIABLE: str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C reaches us alone; we stop them in order
        )
        reader = threading.Thread(target=self._relay, args=(process.name, process.running), daemon=True)
        reader.start()
        self._readers.append(reader)

    def _relay(self, name: str, running: subprocess.Popen[str]) -> None:
        assert running.stdout is not None  # noqa: S101 - it was started with a pipe
        for line in running.stdout:
            self._tell(name, line.rstrip("\n"))

    def _tell(self, name: str, line: str) -> None:
        """A line that nobody can be told, as the terminal is gone or the disk is full, is no reason to end."""
        with contextlib.suppress(OSError, ValueError):
            self._say(name, line)

    def _look_after(self, process: Process) -> None:
        now = time.monotonic()
        if process.running is None:
            if now >= process.restart_at:
                self._start(process)
            return
        code = process.running.poll()
        if code is None:
            return
        process.deaths = 1 if now - process.started > HEALTHY_SECONDS else process.deaths + 1
        first, most = RESTART_SECONDS
        seconds = min(most, first * 2 ** min(process.deaths - 1, 10))
        process.restart_at = now + seconds
        process.running = None
        self._tell(process.name, f"ended with {_ending(code)}; starts again in {seconds:g} s")

    def _stop(self) -> None:
        deadline = time.monotonic() + self._grace
        alive = [process.running for process in self._processes if process.running is not None]
        for running in alive:
            _signal(running, signal.SIGTERM)
        for running in alive:
            try:
                running.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(running, signal.SIGKILL)
                running.wait()
            _signal(running, signal.SIGKILL)  # what it left behind in its group
        for reader in self._readers:
            reader.join(1)


def end_with_supervisor() -> None:
    """A supervisor that was killed tells its processes nothing; they end as if it had told them to."""
    parent = os.getppid()
    if os.environ.get(SUPERVISED_VARIABLE) == str(parent):
        threading.Thread(target=_end_after, args=(parent,), name="supervisor", daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(ORPHAN_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def until_told() -> threading.Event:
    """Set by SIGINT, SIGTERM, or the end of the terminal."""
    stopping = threading.Event()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # nohup ignores SIGHUP, so that we outlive the terminal.
        if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, lambda _signum, _frame: stopping.set())
    return stopping


def check_ports(host: str, ports: Mapping[str, int], patience: float = 0) -> None:
    """Raises PortInUse when one of these cannot be listened on within so many seconds, naming it and what wants it."""
    deadline = time.monotonic() + patience
    for role, port in ports.items():
        while error := _cannot_bind(host, port):
            held = error.errno == errno.EADDRINUSE
            if not held or time.monotonic() >= deadline:
                mend = "stop what holds it, or set PORT to another" if held else "see listen in config.yaml, and PORT"
                reason = (error.strerror or str(error)).lower()
                raise PortInUse(f"{role} cannot listen on {host} port {port}: {reason}; {mend}")
            time.sleep(LOOK_SECONDS)


def _cannot_bind(host: str, port: int) -> OSError | None:
    """What stands against it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None


def _signal(running: subprocess.Popen[str], signum: signal.Signals) -> None:
    """To the process and everything it started."""
    try:
        if signum == signal.SIGTERM:
            running.terminate()
        else:
            os.killpg(running.pid, signum)
    except ProcessLookupError:
        return


def _ending(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
