"""The systemd unit, as far as it can be tried without a running systemd: read, verified, and its command run."""

import configparser
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.installation import Installation, answers, installed
from tests.servers import free_port, missing, wait_until
from workers.clock import LEADER_KEY

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "deploy" / "dingbridge@.service"
PROGRAMS = Path(sys.executable).parent
#: What `systemd-analyze security` may find at most, of 100: it calls up to 20 good.
EXPOSURE = 20


def unit(folder: Path, instance: str) -> Path:
    """The shipped unit of one instance, with paths of this machine."""
    if not (PROGRAMS / "dingbridge").exists():
        missing("the installed dingbridge command")
    text = UNIT.read_text()
    for shipped, ours in (
        ("/opt/dingbridge/.venv/bin", PROGRAMS),
        ("/opt/dingbridge", ROOT),
        ("/etc/dingbridge", folder),
        ("/var/lib/dingbridge", folder / "state"),
    ):
        assert shipped in text
        text = text.replace(shipped, str(ours))
    path = folder / f"dingbridge@{instance}.service"
    path.write_text(text.replace("%i", instance))
    return path


def service(path: Path) -> "configparser.SectionProxy":
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser["Service"]


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    if shutil.which("systemd-analyze") is None:
        missing("systemd-analyze")
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)


def test_systemd_finds_no_fault_in_it(tmp_path: Path) -> None:
    found = analyze("verify", str(unit(tmp_path, "serve")))
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_it_may_do_little(tmp_path: Path) -> None:
    found = analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(unit(tmp_path, "serve")))
    assert found.returncode == 0, found.stdout


def test_jobs_that_lie_beside_the_code_are_found(tmp_path: Path) -> None:
    given = shlex.split(service(UNIT)["Environment"].replace("/opt/dingbridge", str(tmp_path)))
    (tmp_path / "jobs_beside_the_code.py").touch()
    environment = dict(line.split("=", 1) for line in given)
    command = [sys.executable, "-c", "import jobs_beside_the_code"]
    assert subprocess.run(command, env=environment, cwd="/", check=False).returncode == 0


def test_verbs_run_as_the_processes_do() -> None:
    """The recipe of the docs names what the unit names. A shell would read the environment's file in another way."""
    text = (ROOT / "docs" / "deploy.md").read_text()
    recipe = re.search(r"dingbridge\(\) \{(.*?)\n\}", text, re.DOTALL)
    assert recipe is not None and ". /etc/dingbridge/environment" not in text
    words = shlex.split(recipe[1].replace("\\\n", ""))
    pairs = list(pairwise(words))
    named = dict(value.split("=", 1) for option, value in pairs if option == "-p")
    given = service(UNIT)
    assert named == {name: given[name] for name in named}
    assert {"User", "EnvironmentFile", "StateDirectory", "WorkingDirectory"} <= named.keys()
    assert {value for option, value in pairs if option == "-E"} == set(shlex.split(given["Environment"]))
    assert words[-2:] == [given["ExecStart"].removesuffix(" %i"), "$@"]


def workers(place: Installation) -> bool:
    return bool(place.parts.connection.scard("rq:workers"))


#: When each instance is up; serve and console listen on `port`.
UP: dict[str, Callable[[Installation, int], bool]] = {
    "serve": lambda _place, port: answers(f"http://127.0.0.1:{port}/readyz"),
    "work": lambda place, _port: workers(place),
    "jobs": lambda place, _port: workers(place),
    "clock": lambda place, _port: bool(place.parts.connection.exists(LEADER_KEY)),
    "console": lambda _place, port: answers(f"http://127.0.0.1:{port}/healthz"),
}


@pytest.mark.parametrize("instance", UP)
def test_each_process_comes_up_and_ends_in_time(redis_url: str, tmp_path: Path, instance: str) -> None:
    path = unit(tmp_path, instance)
    given = service(path)
    (tmp_path / "state").mkdir()
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        place.settings["apps"][0]["keys"][0]["token"] = "${ACME_TOKEN}"
        place.environment()  # writes the configuration
        port = free_port()
        (tmp_path / "environment").write_text(f"ACME_TOKEN=tok3nForTests\nPORT={port}\n")
        lines = [*shlex.split(given["Environment"]), *Path(given["EnvironmentFile"]).read_text().splitlines()]
        environment = dict(line.split("=", 1) for line in lines)
        command = shlex.split(given["ExecStart"])
        process = subprocess.Popen(command, env=environment, cwd=given["WorkingDirectory"], start_new_session=True)
        try:
            wait_until(lambda: UP[instance](place, port) or process.poll() is not None, 60, instance)
            process.send_signal(signal.Signals[given["KillSignal"]])
            assert process.wait(float(given["TimeoutStopSec"])) == 0
        finally:
            process.kill()
            process.wait()
