"""The benchmarks' own sums: what is reached, what a report says, and that every row can be asked for."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from benchmarks import report
from benchmarks.__main__ import ROWS
from benchmarks.report import Result
from benchmarks.row import Goal, Measure, Row, figure, in_turn, percentile, ratio
from tests.installation import ROOT


@contextmanager
def nothing() -> Iterator[Measure]:
    yield lambda _number: {}


FASTER = Goal("ours against theirs", ratio("ours", "theirs"), 2, 4)
SOONER = Goal("late, ms", figure("late"), 100, 20, more=False)
ROW = Row("sample", "of nothing", nothing, [FASTER, SOONER])


def result(*rounds: Mapping[str, float], row: Row = ROW) -> Result:
    return report.result(row, rounds, 0.5)


@pytest.mark.parametrize(
    ("ours", "late", "verdicts"),
    [
        (1.9, 101, ["NOT reached", "NOT reached"]),
        (2, 100, ["reached", "reached"]),
        (4, 20, ["aim reached", "aim reached"]),
    ],
)
def test_the_median_of_the_rounds_ratios_decides(ours: float, late: float, verdicts: list[str]) -> None:
    rounds = [
        {"ours": 10, "theirs": 1, "late": 1},
        {"ours": ours, "theirs": 1, "late": late},
        {"ours": 0.1, "theirs": 1, "late": 999},
    ]
    assert [goal.verdict for goal in result(*rounds).goals] == verdicts


def test_a_run_is_written_for_people_programs_and_eyes(tmp_path: Path) -> None:
    told = result({"ours": 3, "theirs": 1, "late": 50}, {"ours": 6, "theirs": 2, "late": 70})
    report.write([told], ["sample"], tmp_path)
    assert "| ours against theirs | 3 | 3 | 3 | 2 | 4 | reached |" in (tmp_path / "results.md").read_text()
    (row,) = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=list[Result])
    assert row == told
    drawn = ElementTree.fromstring((tmp_path / "results.svg").read_text())
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == len(ROW.goals)


def test_a_row_replaces_what_was_kept_of_it_and_leaves_the_others(tmp_path: Path) -> None:
    figures = {"ours": 3, "theirs": 1, "late": 50}
    order = ["first", "second"]
    report.write([result(figures, row=ROW._replace(name=name)) for name in order], order, tmp_path)
    report.write([result(figures | {"late": 10}, row=ROW._replace(name="second"))], order, tmp_path)
    kept = msgspec.json.decode((tmp_path / "results.json").read_bytes(), type=list[Result])
    assert [(row.row, row.figures["late"].median) for row in kept] == [("first", 50), ("second", 10)]


def test_nobody_is_always_first() -> None:
    assert [in_turn(number, "abc")[0] for number in range(4)] == ["a", "b", "c", "a"]


def test_a_percentile_is_one_of_the_values() -> None:
    assert (percentile([3, 1, 2], 0.5), percentile([1, 2], 0.99)) == (2, 2)


def test_a_row_that_is_not_there_is_named() -> None:
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "there is no row nonsense" in ended.stderr
    assert all(name in ended.stderr for name in ROWS)
