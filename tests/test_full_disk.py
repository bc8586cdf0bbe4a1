"""A receiver whose disk is full goes on as long as Redis takes the events."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from bridge.events import CONTACT_EVENTS
from ops import envelopes
from tests.installation import Installation, installed
from tests.servers import free_port, missing


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of a mebibyte, there; a file that fills it."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0:
        missing("the right to mount a small disk, which only root has, and not everywhere,")
    try:
        yield folder / "filling"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path) -> None:
    with pytest.raises(OSError, match="No space left"), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("first", [True, False])
def test_it_takes_callbacks(place: Installation, first: bool) -> None:
    """The disk is full when the receiver starts, or later."""
    port, app = free_port(), place.config.apps[0]
    with disk(place.folder / f"var-{port}") as filling:
        if first:
            fill(filling)
        with place.receiving(port) as url:
            if not first:
                fill(filling)
            for event in CONTACT_EVENTS:
                for _ in range(8):
                    reply = envelopes.post(f"{url}/callback/acme", app, envelopes.payload(event, app.corp_id))
                    assert (reply.status, reply.text) == (200, "success")
            told = urllib3.request("GET", f"{url}/metrics").data.decode()
            assert 'dingbridge_events_total{app="acme",outcome="accepted",type="user_add_org"}' in told
            assert urllib3.request("GET", f"{url}/readyz").json()["components"] == {"redis": "up", "spool": "down"}
    queued = [place.parts.connection.llen(f"rq:queue:{event}") for event in CONTACT_EVENTS]
    assert queued == [8] * len(CONTACT_EVENTS)


def test_a_folder_that_cannot_be_made_is_missed_by_nobody(place: Installation) -> None:
    port = free_port()
    var = place.folder / f"var-{port}"
    var.mkdir()
    (var / "metrics").write_text("a file where the folder belongs")
    with place.receiving(port) as url:
        app = place.config.apps[0]
        reply = envelopes.post(f"{url}/callback/acme", app, envelopes.payload("user_add_org", app.corp_id))
        assert (reply.status, reply.text) == (200, "success")
        assert b"dingbridge_callback_seconds_count" in urllib3.request("GET", f"{url}/metrics").data
