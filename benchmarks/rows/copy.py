"""What a full copy costs: calls of each API against the least possible, seconds, users a second, CPU and memory.

`python -m benchmarks.copy [USERS …]` runs `dingbridge sync` against `dingbridge simulate`, each a process of its own,
with no limit of calls; SQLite unless DATABASE_URL names an empty PostgreSQL.
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

from tests.installation import ROOT, answers, settings
from tests.servers import free_port, running_redis, wait_until
from workers.dingtalk import ROLE_GROUPS_PAGE

USERS = (5_000, 50_000)
#: Seconds until the simulator has made its people.
START_SECONDS = 300


def main() -> None:
    for users in [int(argument) for argument in sys.argv[1:]] or USERS:
        measure(users)


def measure(users: int) -> None:
    with TemporaryDirectory(prefix="dingbridge-bench-") as name, running_redis() as redis_url:
        folder, port = Path(name), free_port()
        api = f"http://127.0.0.1:{port}"
        environment = _environment(folder, redis_url, api)
        with _simulating(users, port, environment, folder):
            subprocess.run(_command("migrate"), env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            begun = time.monotonic()
            process = subprocess.Popen(_command("sync", "--json"), env=environment, cwd=folder, stdout=subprocess.PIPE)
            assert process.stdout is not None
            result = json.loads(process.stdout.read())
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - begun
            assert status == 0, result
            cpu = usage.ru_utime + usage.ru_stime
            print(f"{users} users: {seconds:.0f} s, {users / seconds:.0f} users/s, {cpu:.0f} s of CPU of our own")
            print(f"  peak memory {usage.ru_maxrss / 1024:.0f} MiB")
            _tell_calls(_ask(api, "calls")["calls"], least(api))


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


def _tell_calls(made: dict[str, int], fewest: dict[str, int]) -> None:
    total, minimum = sum(made.values()), sum(fewest.values())
    print(f"  {total} calls, {minimum} the least possible: {100 * (total / minimum - 1):.2f} % more")
    for call in sorted(made.keys() | fewest.keys()):
        print(f"    {made.get(call, 0):>7} {fewest.get(call, 0):>7} {call}")


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


if __name__ == "__main__":
    main()
