"""The Procfile under honcho: every process starts and ends on SIGTERM."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.installation import Installation, answers, installed
from tests.servers import free_port, missing, wait_until
from workers.store import tables

ROOT = Path(__file__).parent.parent.parent


def test_every_process_starts_and_ends(redis_url: str, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    if not (programs / "dingbridge").exists():
        missing("the installed dingbridge command")
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        console = free_port()
        procfile = (ROOT / "Procfile").read_text().replace("PORT=8001", f"PORT={console}")
        (tmp_path / "Procfile").write_text(procfile)
        given = place.environment() | {"PATH": f"{programs}:{os.environ['PATH']}", "PORT": str(place.port)}
        command = [str(programs / "honcho"), "start", "-f", "Procfile"]
        with (tmp_path / "output").open("wb") as log:
            honcho = subprocess.Popen(command, env=given, cwd=tmp_path, stdout=log, stderr=log)
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{place.port}/readyz"), 20, "the receiver")
            wait_until(lambda: answers(f"http://127.0.0.1:{console}/healthz"), 20, "the console")
            wait_until(lambda: place.parts.connection.scard("rq:workers") == 2, 20, "both workers")
            userid = place.simulator.truth("acme")["users"][0]["userid"]
            place.simulator.change("acme", "user_modify_org", userid)
            wait_until(lambda: statuses(place) == {"applied"}, 20, "the event")
        finally:
            honcho.send_signal(signal.SIGTERM)
            honcho.wait(15)
        assert "Traceback" not in (tmp_path / "output").read_text()


def statuses(place: Installation) -> set[str]:
    return {row["status"] for row in place.rows(tables.events)}
