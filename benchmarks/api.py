"""A DingTalk that gives tokens and tells of users after a given time, and costs next to nothing itself.

`python -m benchmarks.api PORT MILLISECONDS`. It knows everybody: what it tells of a person follows from the userid.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from benchmarks.place import DEPARTMENT, ROLE, START_SECONDS
from tests.installation import ROOT, answers
from tests.servers import free_port, wait_until

_TOKEN = msgspec.json.encode({"errcode": 0, "access_token": "bench", "expires_in": 7200})


class _Connection(asyncio.Protocol):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator or len(body) < _length(head):
            return
        self._received = b""
        asked = msgspec.json.decode(body) if head.startswith(b"POST") else {}
        answer = user(asked["userid"]) if "userid" in asked else _TOKEN
        asyncio.get_running_loop().call_later(self._seconds, self._answer, answer)

    def _answer(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)


def user(userid: str) -> bytes:
    """What user/get tells; each answer has another title, so that each read changes something."""
    return msgspec.json.encode(
        {
            "errcode": 0,
            "result": {
                "userid": userid,
                "unionid": f"union-{userid}",
                "name": f"Name of {userid}",
                "title": f"title {time.time_ns()}",
                "mobile": "13800000000",
                "email": f"{userid}@example.com",
                "job_number": userid[4:],
                "active": True,
                "admin": False,
                "boss": False,
                "senior": False,
                "dept_id_list": [DEPARTMENT],
                "dept_order_list": [{"dept_id": DEPARTMENT, "order": 7}],
                "leader_in_dept": [{"dept_id": DEPARTMENT, "leader": False}],
                "role_list": [{"id": ROLE, "name": "Role", "group_name": "Group"}],
            },
        }
    )


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


@contextmanager
def answering(milliseconds: float) -> Iterator[str]:
    """One that runs; its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.api", str(port), str(milliseconds)], cwd=ROOT)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/gettoken"), START_SECONDS, "the API")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


async def _serve(port: int, seconds: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(seconds), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2]) / 1000))
