"""Takes out one guard at a time, in a copy of the tree, and runs the tests that must notice.

`python -m tests.guards [WORD …]`: all guards, or those whose name or file holds one of these words.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import click

from tests.guards import GUARDS
from tests.guards.guard import ROOT, Guard

#: Seconds for one test, and for all tests of one guard: a guard whose loss makes them hang is missed by a failure.
TEST_SECONDS, GUARD_SECONDS = 60, 180
#: Seconds for all named tests on the tree as it is.
WHOLE_SECONDS = 1800
#: What the copy does without.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "var", "__pycache__", ".*_cache", "*.egg-info")

_FAILED = re.compile(r"^FAILED (.+?)(?: - .*)?$", re.MULTILINE)


class Ran(NamedTuple):
    """How pytest ended: its exit code, None where it had to be killed, and what it wrote."""

    code: int | None
    output: str

    @property
    def failed(self) -> list[str]:
        return _FAILED.findall(self.output)


def run(tree: Path, tests: Iterable[str], seconds: float) -> Ran:
    """These tests, in this tree, up to the first that fails."""
    command = [sys.executable, "-m", "pytest", "-x", "-rf", "--tb=short", "-p", "no:cacheprovider"]
    # In CI nothing is skipped: a test that does not run notices nothing.
    environment = os.environ | {"PYTHONPATH": str(tree), "CI": "true"}
    process = subprocess.Popen(
        [*command, f"--timeout={TEST_SECONDS}", *tests],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return Ran(None, process.communicate()[0])
    return Ran(process.returncode, output)


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
    return False, "HANGS" if ran.code is None else f"BROKEN: pytest ended with {ran.code}"


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
