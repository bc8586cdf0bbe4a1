"""A log line that cannot be written costs nothing but the line."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from tests.installation import ROOT
from tests.servers import missing

#: It writes lines of every kind, with a traceback too, and then its result.
PROCESS = """
import contextlib, sys
import structlog
from ops import logs
logs.configure("test")
log = structlog.get_logger()
for _ in range(2000):
    log.info("a line"); log.warning("a line", reason="long " * 10); log.error("a line")
try:
    1 / 0
except ZeroDivisionError:
    log.exception("a traceback")
with contextlib.suppress(OSError):  # of what it could not write
    sys.stderr.close()
log.warning("to a stream that is closed")
print("done")
"""


@contextmanager
def full_disk() -> Iterator[int]:
    if not Path("/dev/full").exists():
        missing("/dev/full")
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize("trouble", [full_disk, closed_pipe])
def test_a_line_that_cannot_be_written_stops_nobody(trouble: Callable[[], AbstractContextManager[int]]) -> None:
    with trouble() as stderr:
        command = [sys.executable, "-c", PROCESS]
        result = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr)
    assert result.stdout == b"done\n"
