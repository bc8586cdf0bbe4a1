"""The server process: starts, answers while it changes, and ends quickly and cleanly."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from simulator.server import SimApp, create_simulator
from tests.servers import free_port, wait_until
from tests.simulator.helpers import ACME

PROGRAM = """
import sys
from simulator.server import create_simulator, serve
from tests.simulator.helpers import ACME
simulator = create_simulator([ACME], 50, 1)
serve(simulator, "127.0.0.1", int(sys.argv[1]))
"""


class Served:
    """A simulator's process."""

    def __init__(self) -> None:
        port = free_port()
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], cwd=Path(__file__).parents[2])
        self.base = f"http://127.0.0.1:{port}"
        self.http = urllib3.PoolManager()

    def truth(self) -> str | None:
        """None where nobody answers."""
        try:
            return json.dumps(self.http.request("GET", f"{self.base}/_sim/truth", retries=False, timeout=2).json())
        except urllib3.exceptions.HTTPError:
            return None


@pytest.fixture
def served() -> Iterator[Served]:
    found = Served()
    try:
        wait_until(lambda: found.truth() is not None, 20)
        yield found
    finally:
        found.process.kill()
        found.process.wait()
        found.http.clear()
        wait_until(lambda: found.truth() is None, 10)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serves_changes_and_ends(served: Served, ending: signal.Signals) -> None:
    # Not before it serves: a fork while somebody changes would keep the organisation's lock for ever.
    served.http.request("POST", f"{served.base}/_sim/traffic", json={"per_second": 50}, timeout=5)
    first = served.truth()
    wait_until(lambda: served.truth() != first, 10)
    begun = time.monotonic()
    served.process.send_signal(ending)
    assert served.process.wait(10) == 0
    assert time.monotonic() - begun < 4


def test_a_kill_leaves_nobody_at_the_port(served: Served) -> None:
    served.process.kill()
    wait_until(lambda: served.truth() is None, 10)


@pytest.mark.parametrize(
    ("more", "body"),
    [
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"dept_id=1"),
        ({"Content-Type": "application/json"}, b'{"dept_id": 1}'),
        ({"Transfer-Encoding": "chunked"}, [b'{"dept_', b'id": 1}']),
    ],
)
def test_bodies_of_all_kinds(served: Served, more: dict[str, str], body: bytes | list[bytes]) -> None:
    token = served.http.request("GET", f"{served.base}/gettoken?appkey=dingappkey1&appsecret=secret1", timeout=5).json()
    url = f"{served.base}/topapi/v2/department/get?access_token={token['access_token']}"
    answer = served.http.request("POST", url, body=iter(body) if isinstance(body, list) else body, headers=more)
    assert (answer.status, answer.json()["result"]["dept_id"]) == (200, 1)


def test_two_apps_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        create_simulator([ACME, ACME], 5, 1)


def test_a_wrong_aes_key_is_refused() -> None:
    with pytest.raises(ValueError, match="aes_key"):
        create_simulator([SimApp("x", "internal", "t", "short", "k")], 5, 1)


def test_ten_thousand_people_in_a_moment() -> None:
    begun = time.monotonic()
    simulator = create_simulator([ACME], 10_000, 1)
    assert len(simulator.truth("acme")["users"]) == 10_000 and time.monotonic() - begun < 10
    simulator.close()
