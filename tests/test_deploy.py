"""The files in deploy/, each tried."""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.config import AppConfig
from ops import envelopes
from ops.errors import NoAnswer
from tests.installation import Installation, installed
from tests.servers import free_port, missing, wait_until

ROOT = Path(__file__).parent.parent
#: Threads that send callbacks.
SENDERS = 8
#: Within this every callback must be answered: DingTalk gives up after 1.2 to 2.5 s.
LATEST_SECONDS = 2.0


@contextmanager
def nginx(folder: Path, port: int, receivers: tuple[int, int]) -> Iterator[None]:
    """The shipped configuration, on ports of its own."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    if program is None:
        missing("nginx")
        return
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    for shipped, ours in (("8000", receivers[0]), ("8010", receivers[1]), ("listen 8080", f"listen 127.0.0.1:{port}")):
        assert shipped in text
        text = text.replace(shipped, str(ours))
    path = folder / "nginx.conf"
    path.write_text(text)
    command = [program, "-c", str(path), "-p", str(folder), "-e", str(folder / "error.log")]
    settings = f"daemon off; pid {folder}/nginx.pid;"
    process = subprocess.Popen([*command, "-g", settings], stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(port), 10, "nginx")
        yield
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Sent(NamedTuple):
    """A callback that was sent: its event, what was answered, and the seconds that took."""

    event_id: str
    answer: tuple[int, str | None]
    seconds: float


@contextmanager
def load(place: Installation, app: AppConfig, port: int) -> Iterator[list[Sent]]:
    """About a hundred callbacks a second until the block ends; then what became of each."""
    sent: list[Sent] = []
    ended = threading.Event()

    def send() -> None:
        due = time.monotonic()
        while not ended.is_set():
            message = envelopes.payload("user_modify_org", app.corp_id, ["nobody"])
            begun = time.monotonic()
            try:
                reply = envelopes.post(f"http://127.0.0.1:{port}/callback/acme", app, message)
                answer = (reply.status, reply.text)
            except NoAnswer as error:
                answer = (0, str(error))
            sent.append(Sent(message["eventId"], answer, time.monotonic() - begun))
            due = max(due + SENDERS / 100, time.monotonic())
            ended.wait(due - time.monotonic())

    with ThreadPoolExecutor(SENDERS) as pool:
        senders = [pool.submit(send) for _ in range(SENDERS)]
        try:
            yield sent
        finally:
            ended.set()
        for sender in senders:
            sender.result()


def post(place: Installation, app: AppConfig, port: int) -> tuple[int, str | None]:
    message = envelopes.payload("user_modify_org", app.corp_id, ["nobody"])
    reply = envelopes.post(f"http://127.0.0.1:{port}/callback/acme", app, message)
    return reply.status, reply.text


def test_nginx_goes_on_with_the_other_receiver(redis_url: str, tmp_path: Path) -> None:
    port, second = free_port(), free_port()
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        app = place.config.apps[0]
        with place.receiving(second), nginx(tmp_path, port, (place.port, second)):
            with place.receiving():
                wait_until(lambda: post(place, app, port) == (200, "success"), 10, "nginx")
                assert [post(place, app, port) for _ in range(20)] == [(200, "success")] * 20
            # One receiver is gone.
            assert [post(place, app, port) for _ in range(20)] == [(200, "success")] * 20
        assert place.parts.connection.llen("rq:queue:user_modify_org") >= 40


def queued(place: Installation) -> set[str]:
    return {entry.decode() for entry in place.parts.connection.lrange("rq:queue:user_modify_org", 0, -1)}


def signal_all(process: "subprocess.Popen[bytes]", signum: signal.Signals) -> None:
    """To gunicorn's master and then to its workers: no master mourns a worker in between."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        missing("Linux, which tells a process's children,")
    for pid in [process.pid, *map(int, children.read_text().split())]:
        os.kill(pid, signum)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_nginx_goes_on_when_a_receiver_is_killed_or_hangs(
    redis_url: str, tmp_path: Path, signum: signal.Signals
) -> None:
    port, second = free_port(), free_port()
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        app = place.config.apps[0]
        with place.receiving(), place.receiving(second), nginx(tmp_path, port, (place.port, second)):
            assert [post(place, app, port) for _ in range(10)] == [(200, "success")] * 10
            process = place.receivers[place.port]
            signal_all(process, signum)
            try:
                with load(place, app, port) as sent:
                    wait_until(lambda: len(sent) >= 300, 60, "callbacks")
            finally:
                if signum == signal.SIGSTOP:
                    signal_all(process, signal.SIGCONT)
            assert {one.answer for one in sent} == {(200, "success")}
            wait_until(lambda: {one.event_id for one in sent} <= queued(place), 20, "every event")
        assert max(one.seconds for one in sent) < LATEST_SECONDS


def test_receivers_are_restarted_one_by_one_and_nobody_notices(redis_url: str, tmp_path: Path) -> None:
    port, second = free_port(), free_port()
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        app = place.config.apps[0]
        with ExitStack() as first, ExitStack() as other, nginx(tmp_path, port, (place.port, second)):
            running = {place.port: first, second: other}
            for number, stack in running.items():
                stack.enter_context(place.receiving(number))
            with load(place, app, port) as sent:
                for number, stack in running.items():
                    stack.close()
                    stack.enter_context(place.receiving(number))
            assert [one for one in sent if one.answer != (200, "success")] == []
            # What Redis was too slow for comes by way of the spool.
            wait_until(lambda: {one.event_id for one in sent} == queued(place), 20, "every event")
        assert max(one.seconds for one in sent) < LATEST_SECONDS
