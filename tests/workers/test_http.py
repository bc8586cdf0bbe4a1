"""HTTP by libcurl: connections that are kept and lost, faults without the target, and whom it trusts."""

import contextlib
import logging
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.servers import free_port, missing
from workers.http import Http, NoAnswer, Response, Timeout

PATIENT = Timeout(connect=3.0, answer=10.0)
HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"


class Reply(NamedTuple):
    """What is sent back, and what then becomes of the connection."""

    data: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    hangs_up: bool = False
    #: Waited for after the data, before anything else.
    until: threading.Event | None = None


@dataclass
class Server:
    """Answers each request with the next of `replies`, whose last one stays."""

    listener: socket.socket
    replies: list[Reply] = field(default_factory=lambda: [Reply()])
    #: What came, by connection.
    received: list[list[bytes]] = field(default_factory=list)
    wrap: Callable[[socket.socket], socket.socket] = lambda client: client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}/call?access_token=t0ken"

    def run(self) -> None:
        with contextlib.suppress(OSError), ThreadPoolExecutor(8) as pool:
            while True:
                pool.submit(self._talk, self.listener.accept()[0])

    def _talk(self, plain: socket.socket) -> None:
        mine: list[bytes] = []
        with plain, contextlib.suppress(OSError), self.wrap(plain) as client:
            client.settimeout(10)
            self.received.append(mine)
            while request := _request(client):
                mine.append(request)
                reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
                client.sendall(reply.data)
                if reply.until is not None:
                    reply.until.wait(10)
                if reply.hangs_up:
                    break


def _request(client: socket.socket) -> bytes:
    received = b""
    while chunk := client.recv(65536):
        received += chunk
        head, end, body = received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if end and len(body) >= int(length or b"0"):
            break
    return received


@pytest.fixture
def server() -> Iterator[Server]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made = Server(listener)
        thread = threading.Thread(target=made.run)
        thread.start()
        yield made
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.fixture
def http() -> Iterator[Http]:
    made = Http()
    yield made
    made.close()


def failure(call: Callable[[], object]) -> str:
    with pytest.raises(NoAnswer) as refusal:
        call()
    assert refusal.value.__cause__ is refusal.value.__context__ is None
    return str(refusal.value)


def test_a_call_as_dingtalk_takes_it(server: Server, http: Http) -> None:
    assert http.request(server.url, b'{"userid":"\xe5\xbc\xa0"}', PATIENT) == Response(200, b"ok", "")
    assert http.request(server.url, None, PATIENT).body == b"ok"
    posted, asked = server.received[0]
    head, _, body = posted.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /call?access_token=t0ken HTTP/1.1\r\n")
    assert b"\r\nContent-Type: application/json\r\n" in head and b"\r\nUser-Agent: dingbridge\r\n" in head
    assert body == b'{"userid":"\xe5\xbc\xa0"}'
    assert asked.startswith(b"GET /call?access_token=t0ken HTTP/1.1\r\n") and asked.endswith(b"\r\n\r\n")


def test_each_thread_keeps_a_connection(server: Server) -> None:
    http = Http()
    together = threading.Barrier(4)

    def converse(_number: int) -> int:
        together.wait(10)
        return sum(http.request(server.url, b"{}", PATIENT).status for _ in range(5))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(converse, range(4))) == [1000] * 4
    assert [len(requests) for requests in server.received] == [5] * 4


def test_a_connection_that_the_server_has_closed_is_opened_anew(server: Server, http: Http) -> None:
    server.replies = [Reply(hangs_up=True), Reply()]
    assert http.request(server.url, b"{}", PATIENT).status == 200
    assert http.request(server.url, b"{}", PATIENT).status == 200
    assert [len(requests) for requests in server.received] == [1, 1]


def test_a_kept_connection_that_breaks_before_an_answer_begins_is_opened_anew(server: Server, http: Http) -> None:
    """The server may close it while the request is on its way; the request is then sent once more."""
    server.replies = [Reply(), Reply(b"", hangs_up=True), Reply()]
    assert http.request(server.url, b"{}", PATIENT).status == 200
    assert http.request(server.url, b'{"userid":"zhangsan"}', PATIENT).status == 200
    assert [len(requests) for requests in server.received] == [2, 1]
    assert server.received[1][0] == server.received[0][1]


def test_what_may_be_asked_but_once_is_never_sent_again(server: Server, http: Http) -> None:
    server.replies = [Reply(), Reply(b"", hangs_up=True), Reply()]
    assert http.request(server.url, None, PATIENT).status == 200
    assert failure(lambda: http.request(server.url, None, PATIENT, once=True)) == "curl-52"
    assert [len(requests) for requests in server.received] == [1, 1]
    assert http.request(server.url, None, PATIENT).status == 200


def test_a_redirect_is_told_and_not_followed(server: Server, http: Http) -> None:
    server.replies = [Reply(b"HTTP/1.1 302 Found\r\nLocation: /punish?x=1\r\nContent-Length: 0\r\n\r\n"), Reply()]
    status, _, redirect = http.request(server.url, b"{}", PATIENT)
    assert (status, redirect.partition("/punish")[1:]) == (302, ("/punish", "?x=1"))
    assert [len(requests) for requests in server.received] == [1]


def test_nobody_there(http: Http) -> None:
    assert failure(lambda: http.request(f"http://127.0.0.1:{free_port()}/?t0ken", None, PATIENT)) == "unreachable"


@pytest.mark.parametrize("begun", [b"", HALF])
def test_an_answer_that_does_not_end(server: Server, http: Http, begun: bytes) -> None:
    released = threading.Event()
    server.replies = [Reply(begun, hangs_up=True, until=released)]
    try:
        assert failure(lambda: http.request(server.url, b"{}", Timeout(connect=3, answer=0.2))) == "timeout"
    finally:
        released.set()


@pytest.mark.parametrize(("begun", "fault"), [(b"", "curl-52"), (HALF, "curl-18"), (b"no HTTP\r\n\r\n", "curl-1")])
def test_what_is_no_answer(server: Server, http: Http, begun: bytes, fault: str) -> None:
    server.replies = [Reply(begun, hangs_up=True)]
    assert failure(lambda: http.request(server.url, b"{}", PATIENT)) == fault
    assert [len(requests) for requests in server.received] == [1]
    server.replies = [Reply()]
    assert http.request(server.url, b"{}", PATIENT).status == 200


def test_no_other_protocol(http: Http, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("{}")
    assert failure(lambda: http.request(f"file://{tmp_path}/file", None, PATIENT)) == "curl-1"


def test_the_environment_names_no_proxy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    http = Http()
    assert http.request(server.url, None, PATIENT).status == 200
    http.close()


def test_nothing_is_logged(
    server: Server, http: Http, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    http.request(server.url, b"{}", PATIENT)
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A server's own certificate for 127.0.0.1, with its key."""
    if shutil.which("openssl") is None:
        missing("openssl")
    path = tmp_path / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(path), "-out", str(tmp_path / "only.pem")]
    subprocess.run([*command, *names], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (tmp_path / "only.pem").read_bytes())
    return path


def test_it_trusts_whom_python_trusts(server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.url.replace("http:", "https:")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.wrap = lambda client: context.wrap_socket(client, server_side=True)
    stranger = Http()
    assert failure(lambda: stranger.request(url, b"{}", PATIENT)) == "untrusted-certificate"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    friend = Http()
    assert friend.request(url, b"{}", PATIENT).body == b"ok"
    assert friend.request(url, b"{}", PATIENT).body == b"ok"
    assert [len(requests) for requests in server.received if requests] == [2]
    stranger.close()
    friend.close()
