"""What a full copy costs: calls of each API against the least possible, seconds, users a second, CPU and memory.

`dingbridge sync` against `dingbridge simulate`, each a process of its own, with no limit of calls, on SQLite.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import urllib3
import yaml

from benchmarks.row import Goal, Measure, Row, figure, ratio
from tests.installation import ROOT, answers, settings
from tests.servers import free_port, running_redis, wait_until
from workers.dingtalk import ROLE_GROUPS_PAGE

USERS = 50_000
#: Seconds until the simulator has made its people.
START_SECONDS = 300


@contextmanager
def prepared() -> Iterator[Measure]:
    with TemporaryDirectory(prefix="dingbridge-bench-") as name, running_redis() as redis_url:
        folder, port = Path(name), free_port()
        api = f"http://127.0.0.1:{port}"
        environment = _environment(folder, redis_url, api)
        with _simulating(USERS, port, environment, folder):
            yield lambda _number: _copy(folder, environment, api)


def _copy(folder: Path, environment: dict[str, str], api: str) -> dict[str, float]:
    subprocess.run(_command("migrate"), env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    begun = time.monotonic()
    process = subprocess.Popen(_command("sync", "--json"), env=environment, cwd=folder, stdout=subprocess.PIPE)
    assert process.stdout is not None
    result = json.loads(process.stdout.read())
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begun
    assert status == 0, result
    fewest = least(api)
    return {
        "departments": fewest["/topapi/v2/department/get"],
        "users/s": USERS / seconds,
        "CPU of our own, s": usage.ru_utime + usage.ru_stime,
        "peak memory, MiB": usage.ru_maxrss / 1024,
        "calls": sum(_ask(api, "calls")["calls"].values()),
        "fewest calls": sum(fewest.values()),
    }


def least(api: str) -> dict[str, int]:
    """The fewest calls that tell everything.

    DingTalk has no call that tells of several users with their roles and managers, of several departments with their
    managers, or of more than one department's members or children. So one `user/get` for each user and three calls for
    each department, as an empty one looks like any other; the pages of the role list; one list of admins, one token,
    one scope.
    """
    (app,) = _ask(api, "")["apps"]
    groups = len(_ask(api, "truth")["role_groups"])
    departments = app["departments"]
    return {
        "/topapi/v2/user/get": app["users"],
        "/topapi/v2/department/get": departments,
        "/topapi/v2/department/listsubid": departments,
        "/topapi/user/listid": departments,
        "/topapi/role/list": math.ceil(groups / ROLE_GROUPS_PAGE),
        "/topapi/user/listadmin": 1,
        "/auth/scopes": 1,
        "/gettoken": 1,
    }


def _environment(folder: Path, redis_url: str, api: str) -> dict[str, str]:
    given = settings(
        redis={"url": redis_url},
        datastore={"url": f"sqlite:///{folder}/dingbridge.db"},
        var=str(folder / "var"),
        dingtalk={"api": api, "calls_per_second": 0},
    )
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(given))
    return {**os.environ, "BRIDGE_CONFIG": str(path), "PYTHONPATH": str(ROOT)}


@contextmanager
def _simulating(users: int, port: int, environment: dict[str, str], folder: Path) -> Iterator[None]:
    command = _command("simulate", "--users", str(users))
    process = subprocess.Popen(command, env=environment | {"PORT": str(port)}, cwd=folder)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/_sim/faults"), START_SECONDS, "the simulator")
        yield
    finally:
        process.terminate()
        process.wait(60)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ops", *arguments]


def _ask(api: str, what: str) -> Any:
    answer = urllib3.request("GET", f"{api}/_sim/{what}".rstrip("/"), timeout=60)
    return json.loads(answer.data)


ROW = Row(
    "copy",
    f"full copy of {USERS} users, simulator without a limit",
    prepared,
    [
        Goal("calls against the fewest", ratio("calls", "fewest calls"), 1.05, 1.02, more=False),
        Goal("users/s", figure("users/s"), 800, 800),
    ],
    rounds=1,
)
