"""The server process: starts, answers while it changes, and ends quickly and cleanly."""

import json
import signal
import subprocess
import sys
import time
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
simulator.start_traffic(50)
serve(simulator, "127.0.0.1", int(sys.argv[1]))
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_serves_changes_and_ends(ending: signal.Signals) -> None:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(port)], cwd=Path(__file__).parents[2])
    http = urllib3.PoolManager()
    base = f"http://127.0.0.1:{port}/_sim"

    def truth() -> str | None:
        try:
            return json.dumps(http.request("GET", f"{base}/truth", retries=False).json())
        except urllib3.exceptions.HTTPError:
            return None

    try:
        wait_until(lambda: truth() is not None, 20)
        first = truth()
        wait_until(lambda: truth() != first, 10)
    finally:
        begun = time.monotonic()
        process.send_signal(ending)
        assert process.wait(10) == 0
    assert time.monotonic() - begun < 4
    http.clear()


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
