"""Takes out one guard at a time, in a copy of the tree, and runs the tests that must notice.

`python -m tests.guards [WORD …]`: all guards, or those whose name or file holds one of these words.
"""

import multiprocessing
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click
import flask
import pydantic
import pytest
import rq
import sqlalchemy
import urllib3

from tests.guards import GUARDS
from tests.guards.guard import ROOT, Guard

#: Seconds for one test, and for all tests of one guard: a guard whose loss makes them hang is missed by a failure.
TEST_SECONDS, GUARD_SECONDS = 60, 180
#: Seconds for all named tests on the tree as it is.
WHOLE_SECONDS = 1800
#: What the copy does without.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache", "*.egg-info")

#: Packages that each run imports anew, from its own tree.
OURS = ("bridge", "workers", "ops", "simulator", "tests")
#: What takes long to import and is nobody's of ours: each run inherits it.
INHERITED = (flask, pydantic, rq, sqlalchemy, urllib3)

_FORK = multiprocessing.get_context("fork")
_FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


class Ran(NamedTuple):
    """How pytest ended: its exit code, negative where it had to be killed, and what it wrote."""

    code: int
    output: str

    @property
    def failed(self) -> list[str]:
        return _FAILED.findall(self.output)


def run(tree: Path, tests: Sequence[str], seconds: float) -> Ran:
    """These tests, in this tree, up to the first that fails."""
    told = tree.parent / "told"
    process = _FORK.Process(target=_pytest, args=(tree, told, tests))
    process.start()
    process.join(seconds)
    if process.is_alive() and process.pid:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    return Ran(process.exitcode or 0, told.read_text())


def _pytest(tree: Path, told: Path, tests: Sequence[str]) -> None:
    """In a process of its own, which has nothing of ours yet."""
    os.setsid()
    with told.open("wb") as output:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    os.chdir(tree)
    sys.path[:] = [str(tree), *(entry for entry in sys.path if entry not in ("", str(ROOT)))]
    # In CI nothing is skipped: a test that does not run notices nothing.
    os.environ.update({"PYTHONPATH": str(tree), "CI": "true"})
    options = ["-x", "-rf", "--tb=short", "-p", "no:cacheprovider", f"--timeout={TEST_SECONDS}"]
    sys.exit(pytest.main([*options, *tests]))


def judge(guard: Guard, tree: Path) -> tuple[bool, str]:
    """Whether the tests notice that the guard is gone, in words too."""
    path = tree / guard.file
    whole = path.read_text()
    try:
        _rewrite(path, guard.without(tree))
        ran = run(tree, guard.tests, GUARD_SECONDS)
    except ValueError as error:
        return False, f"NOT FOUND: {error}"
    finally:
        _rewrite(path, whole)
    if ran.code == 0:
        return False, "SURVIVED"
    if ran.code == 1 and ran.failed:
        return True, f"caught by {ran.failed[0]}"
    # A slip in the list proves nothing: neither a module that cannot be imported nor a test that hangs.
    click.echo(ran.output)
    return False, "HANGS" if ran.code < 0 else f"BROKEN: pytest ended with {ran.code}"


def _rewrite(path: Path, text: str) -> None:
    """Python takes a cached file for the present one by its size and the whole second of its time."""
    second = path.stat().st_mtime + 1
    path.write_text(text)
    os.utime(path, (second, second))


def judge_all(guards: Sequence[Guard]) -> int:
    """Judge these; the exit code."""
    with TemporaryDirectory(prefix="dingbridge-guards-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        tests = sorted({test for guard in guards for test in guard.tests})
        click.echo(f"{len(guards)} guards; with all of them {len(tests)} tests must pass")
        ran = run(tree, tests, WHOLE_SECONDS)
        if ran.code != 0:
            click.echo(ran.output)
            click.echo("the tests fail though every guard is in its place")
            return 1
        verdicts = []
        for guard in guards:
            begun = time.monotonic()
            caught, words = judge(guard, tree)
            verdicts.append((guard, caught))
            click.echo(f"{guard.file}: {guard.name}: {words} ({time.monotonic() - begun:.0f} s)")
    click.echo(f"\n{'file':<32}{'guards':>8}{'caught':>8}")
    for file in dict.fromkeys(guard.file for guard in guards):
        own = [caught for guard, caught in verdicts if guard.file == file]
        click.echo(f"{file:<32}{len(own):>8}{sum(own):>8}")
    click.echo(f"{'all':<32}{len(verdicts):>8}{sum(caught for _, caught in verdicts):>8}")
    missed = [guard for guard, caught in verdicts if not caught]
    for guard in missed:
        click.echo(f"not caught: {guard.file}: {guard.name}, against: {guard.against}")
    return 1 if missed else 0


@click.command()
@click.argument("words", nargs=-1)
def main(words: tuple[str, ...]) -> None:
    """Take out each guard, or those whose name or file holds one of WORDS, and see that a test fails."""
    chosen = [guard for guard in GUARDS if not words or any(word in f"{guard.file} {guard.name}" for word in words)]
    if not chosen:
        raise click.UsageError(f"no guard is named like {' or '.join(words)}")
    sys.exit(judge_all(chosen))


if __name__ == "__main__":
    main()
