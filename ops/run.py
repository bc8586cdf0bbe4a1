"""`dingbridge run`: the whole installation on this machine; with `--demo` against a simulated DingTalk."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import redis
import urllib3
from rich.console import Console
from rich.markup import escape

from bridge import config as configuration
from bridge import embedded, python, queues, safety
from bridge.config import Config
from bridge.errors import BridgeError, ConfigError
from bridge.queues import Patience
from ops import demo
from ops.supervisor import Process, Supervisor, check_ports, until_told
from workers import jobs
from workers.store import migrate
from workers.store.engine import open_store

#: Seconds for a process of ours to answer after its start.
START_SECONDS = 30
#: Seconds between two looks whether the embedded Redis has its keeper.
TEND_SECONDS = 2.0
#: The highest port that there is.
LAST_PORT = 65535
_COLOURS = {"serve": "cyan", "work": "green", "jobs": "magenta", "clock": "yellow", "console": "blue"}


def run(as_demo: bool) -> None:
    """Run everything until SIGINT, SIGTERM or SIGHUP.

    Raises ConfigError, PortInUse, RedisUnusable, DatastoreForeign: what every process would end with, again and again.
    """
    elsewhere = _elsewhere("change", "user_leave_org") if as_demo else None
    environ = demo.environment(os.environ) if as_demo else dict(os.environ)
    os.environ.update(environ)  # users' modules are imported here, too
    base = configuration.port("serve", environ)
    ports = {role: base + offset for offset, role in enumerate(demo.PORTS) if as_demo or role != "simulate"}
    if (last := max(ports.values())) > LAST_PORT:
        raise ConfigError([f"PORT: {base} is too high: run takes the ports up to {last}, of {LAST_PORT}"])
    config = configuration.load(environ)
    check_ports(config.listen, ports)
    jobs.load_registry(config)
    screen = Screen()
    try:
        _prepare(config)
        screen.welcome(config, ports, elsewhere)
        _supervise(config, environ, ports, screen, as_demo)
    finally:
        if config.redis.url == "embedded":
            embedded.stop(config.var)
    screen.note("all is stopped")


def _prepare(config: Config) -> None:
    """The stores as all processes want them; a Redis that is away is no reason to stay away too."""
    with contextlib.suppress(redis.RedisError):
        safety.check(queues.connect(config, Patience.CONSOLE), config.redis.accept_unsafe)
    store = open_store(config.datastore.url)
    migrate.migrate(store)
    store.close()


def _supervise(
    config: Config, environ: Mapping[str, str], ports: Mapping[str, int], screen: "Screen", as_demo: bool
) -> None:
    supervisor = Supervisor(_processes(config, ports, as_demo), environ, screen.say)
    stopping = until_told()  # from here on; before, a signal ends us as any other program
    # A keeper of Redis that was killed would be missed only with its server: none of ours ends for that.
    tender = threading.Thread(target=_tend, args=(config, stopping))
    if config.redis.url == "embedded":
        tender.start()
    if as_demo:
        show = threading.Thread(target=_show, args=(config, environ, ports, screen, stopping), daemon=True)
        show.start()
    try:
        supervisor.run(stopping)
    finally:
        screen.note("stopping")
        stopping.set()
        if config.redis.url == "embedded":
            tender.join()


def _tend(config: Config, stopping: threading.Event) -> None:
    while not stopping.wait(TEND_SECONDS):
        with contextlib.suppress(OSError):  # a full disk; the next look may find room
            embedded.tend(config.var)


def _processes(config: Config, ports: Mapping[str, int], as_demo: bool) -> list[Process]:
    def listening(role: str) -> dict[str, str]:
        return {"PORT": str(ports[role])}

    found = [Process("serve", ["serve"], listening("serve"))]
    if as_demo:
        callbacks = f"http://{demo.address(config.listen, ports['serve'])}"
        arguments = ["simulate", "--users", str(demo.USERS), "--callbacks", callbacks]
        found.append(Process("simulate", arguments, listening("simulate")))
    return [
        *found,
        Process("work", ["work"]),
        Process("jobs", ["jobs"]),
        Process("clock", ["clock"]),
        Process("console", ["console"], listening("console")),
    ]


class Screen:
    """What a person sees: where things are, and line by line what happens."""

    def __init__(self) -> None:
        self._console = _console()
        self._lock = threading.Lock()

    def welcome(self, config: Config, ports: Mapping[str, int], elsewhere: str | None) -> None:
        """What runs where, and how to get in; `elsewhere` of a demonstration: what to type in another terminal."""
        where = {role: f"http://{demo.address(config.listen, port)}" for role, port in ports.items()}
        lines = ["", "[bold]dingbridge[/bold] keeps a local copy of a DingTalk organisation true.", ""]
        lines += [f"  callbacks   {where['serve']}/callback/{app.name}" for app in config.apps]
        lines.append(f"  console     {where['console']}   queues, events, failed jobs")
        for name, password in config.console.users.items() if elsewhere else ():
            lines.append(
                f"              log in as [bold]{escape(name)}[/bold] with {escape(password.get_secret_value())}"
            )
        if elsewhere:
            lines.append(f"  simulator   {where['simulate']}/_sim   a made-up DingTalk with {demo.USERS} people")
        redis_url = f"embedded, under {config.var}/redis" if config.redis.url == "embedded" else "as REDIS_URL says"
        lines += [
            f"  Redis       {redis_url}",
            f"  datastore   {config.datastore.url if config.datastore.url.startswith('sqlite') else 'PostgreSQL'}",
            "",
            *([f"  elsewhere   {escape(elsewhere)}"] if elsewhere else []),
            "  Ctrl-C stops all of it.",
            "",
        ]
        self._print("\n".join(lines))

    def say(self, process: str, line: str) -> None:
        """A line of a process."""
        colour = _COLOURS.get(process, "white")
        self._print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] [{colour}]{process:<9}[/{colour}] {escape(line)}")

    def note(self, line: str) -> None:
        """A line of our own."""
        self.say("run", line)

    def _print(self, text: str) -> None:
        """Where it can be: a terminal that is gone or a full disk must not keep us from stopping in order."""
        with self._lock:
            try:
                self._console.print(text)
            except (OSError, ValueError, SystemExit):  # Rich ends the program where nobody reads its pipe
                self._console = _console()  # the old one keeps what it could not write, and more with each line


def _elsewhere(*verb: str) -> str:
    """What to type in another terminal, in the same folder, to speak to this demonstration."""
    given = [f"{name}={shlex.quote(os.environ[name])}" for name in demo.PLACE if os.environ.get(name)]
    ours = [sys.argv[0]] if Path(sys.argv[0]).name == "dingbridge" else python.command("ops")
    return " ".join([*given, shlex.join([*ours, "--demo", *verb])])


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _show(
    config: Config, environ: Mapping[str, str], ports: Mapping[str, int], screen: Screen, stopping: threading.Event
) -> None:
    """The demonstration's course: a first copy, then changes, each told as it is applied."""
    simulator = f"http://{demo.address(config.listen, ports['simulate'])}"
    http = urllib3.PoolManager(retries=False, timeout=5)
    receiver = f"http://{demo.address(config.listen, ports['serve'])}"
    try:
        for url in (f"{receiver}/readyz", f"{simulator}/_sim"):
            _wait_for(http, url, stopping)
        if stopping.is_set():
            return
        first = next(app for app in config.apps)
        screen.say("simulate", "somebody joins; from now on people come, move and leave")
        _ask(http, f"{simulator}/_sim/changes", {"app": first.name, "event": "user_add_org"})
        _ask(http, f"{simulator}/_sim/traffic", {"per_second": demo.PER_SECOND})
        telling = threading.Thread(target=_tell, args=(config, screen, stopping), daemon=True)
        telling.start()
        _copy(environ, screen.say, stopping)
    except (BridgeError, urllib3.exceptions.HTTPError) as error:
        if not stopping.is_set():
            screen.note(f"the demonstration cannot go on: {error}")


def _tell(config: Config, screen: Screen, stopping: threading.Event) -> None:
    store = open_store(config.datastore.url)
    for line in demo.happenings(store, stopping):
        screen.say("event", line)
    store.close()


def _copy(environ: Mapping[str, str], say: Callable[[str, str], None], stopping: threading.Event) -> None:
    """The first full copy of every corp that can be read: a process of its own, so that Ctrl-C need not wait for it."""
    say("sync", "copying the organisation; live events go first")
    with subprocess.Popen(
        python.command("ops", "sync"), env=environ,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as copying:  # fmt: skip
        while copying.poll() is None:
            if stopping.wait(0.1):
                copying.kill()
                return
        output, _ = copying.communicate()
    for line in output.splitlines():
        say("sync", line)


def _wait_for(http: urllib3.PoolManager, url: str, stopping: threading.Event) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not stopping.wait(0.1):
        try:
            if http.request("GET", url).status == 200:
                return
        except urllib3.exceptions.HTTPError:
            if time.monotonic() > deadline:
                raise


def _ask(http: urllib3.PoolManager, url: str, body: Mapping[str, object]) -> None:
    answer = http.request("POST", url, body=json.dumps(body), headers={"Content-Type": "application/json"})
    if answer.status >= 300:
        raise BridgeError(f"{url} answered {answer.status}: {answer.data.decode(errors='replace')[:200]}")
