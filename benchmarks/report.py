"""What was measured, as a table for people, JSON for programs, and a plot."""

import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.row import Row, Spread, spread

#: Where results are kept.
RESULTS = Path(__file__).parent / "results"
#: Factor between what must be reached and the edge of the plot.
EDGE = 16
_LEFT, _WIDTH, _LINE, _HEAD = 430, 420, 24, 60


class Judged(NamedTuple):
    """What a goal came to, beside what it should come to."""

    name: str
    value: Spread
    least: float
    aim: float
    more: bool

    @property
    def verdict(self) -> str:
        if self.better(self.value.median) >= self.better(self.aim):
            return "aim reached"
        return "reached" if self.better(self.value.median) >= 1 else "NOT reached"

    def better(self, value: float) -> float:
        """How many times better than what must be reached."""
        if value <= 0:
            return EDGE
        return value / self.least if self.more else self.least / value


class Result(NamedTuple):
    """What a row came to."""

    row: str
    title: str
    #: When it was measured, in how many rounds, and the load of the machine (1 minute) at their beginning.
    at: str
    rounds: int
    load: float
    figures: dict[str, Spread]
    goals: list[Judged]


def result(row: Row, rounds: Sequence[Mapping[str, float]], load: float) -> Result:
    """Of its rounds, one mapping of figures for each."""
    figures = {name: spread([figures[name] for figures in rounds]) for name in rounds[0]}
    goals = [
        Judged(goal.name, spread([goal.of(figures) for figures in rounds]), goal.least, goal.aim, goal.more)
        for goal in row.goals
    ]
    return Result(row.name, row.title, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", len(rounds), load, figures, goals)


def show(result: Result, console: Console) -> None:
    """One row's tables."""
    table = Table("figure", "median", "least", "most", title=f"{result.row}: {result.title}", title_justify="left")
    for name, value in result.figures.items():
        table.add_row(name, *map(_number, value))
    console.print(table)
    table = Table("goal", "median", "least", "most", "at least", "aim", "verdict")
    for goal in result.goals:
        table.add_row(goal.name, *map(_number, (*goal.value, goal.least, goal.aim)), goal.verdict)
    if result.goals:
        console.print(table)
    console.print(f"{result.rounds} rounds; load of this machine at the beginning {result.load:.1f}")


def write(measured: Sequence[Result], order: Sequence[str], folder: Path = RESULTS) -> list[Path]:
    """Keep these rows in place of what was kept of them, and write all rows, in this order, as JSON, Markdown, SVG."""
    folder.mkdir(exist_ok=True)
    kept = folder / "results.json"
    known = msgspec.json.decode(kept.read_bytes(), type=list[Result]) if kept.exists() else []
    by_name = {result.row: result for result in (*known, *measured)}
    results = [by_name[name] for name in order if name in by_name]
    texts = {"results.md": _markdown(results), "results.svg": plot(results)}
    kept.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [kept, *(folder / name for name in texts)]


def _machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{len(models)} × {models[0] if models else 'unknown'}, Python {platform.python_version()}"


def _markdown(results: Sequence[Result]) -> str:
    lines = ["# Results", "", f"{_machine()}. Medians, with the least and the most of all rounds.", ""]
    lines += ["![Each goal against what must be reached](results.svg)", ""]
    for result in results:
        lines += [
            f"## {result.row}",
            "",
            f"{result.title}. {result.at}, {result.rounds} rounds; load at the beginning {result.load:.1f}.",
            "",
        ]
        lines += ["| figure | median | least | most |", "|---|---|---|---|"]
        lines += [f"| {name} | {' | '.join(map(_number, value))} |" for name, value in result.figures.items()]
        lines.append("")
        if result.goals:
            lines += ["| goal | median | least | most | at least | aim | verdict |", "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {goal.name} | {' | '.join(map(_number, (*goal.value, goal.least, goal.aim)))} | {goal.verdict} |"
            for goal in result.goals
        ]
        lines.append("")
    return "\n".join(lines)


def plot(results: Sequence[Result]) -> str:
    """Each goal on a line: how many times better than what must be reached, on a logarithmic scale."""
    goals = [(result.row, goal) for result in results for goal in result.goals]
    height = _HEAD + _LINE * len(goals) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 110} {height}"',
        ' font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="22" font-size="15">dingbridge: times better than what must be reached</text>',
    ]
    for factor in (1 / 4, 1 / 2, 1, 2, 4, 8):
        x = _x(factor)
        colour = "#c0392b" if factor == 1 else "#dddddd"
        parts.append(f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{_HEAD - 12}" y2="{height - 16}" stroke="{colour}"/>')
        parts.append(f'<text x="{x:.0f}" y="{_HEAD - 18}" text-anchor="middle" fill="#555">{factor:g}×</text>')
    for number, (row, goal) in enumerate(goals):
        parts += _line(row, goal, _HEAD + _LINE * number + 8)
    return "\n".join([*parts, "</svg>", ""])


def _line(row: str, goal: Judged, y: int) -> list[str]:
    median, *ends = (_x(goal.better(number)) for number in goal.value)
    colour = {"aim reached": "#1e8449", "reached": "#2471a3"}.get(goal.verdict, "#c0392b")
    aim = _x(goal.better(goal.aim))
    return [
        f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(f"{row}: {goal.name}")}</text>',
        f'<line x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
        f'<line x1="{aim:.1f}" x2="{aim:.1f}" y1="{y - 6}" y2="{y + 6}" stroke="#888" stroke-dasharray="2 2"/>',
        f'<circle cx="{median:.1f}" cy="{y}" r="5" fill="{colour}"/>',
        f'<text x="{_LEFT + _WIDTH + 12}" y="{y + 4}" fill="{colour}">{_number(goal.value.median)}</text>',
    ]


def _x(factor: float) -> float:
    bounded = min(EDGE, max(1 / EDGE, factor))
    return _LEFT + _WIDTH * (math.log(bounded) / math.log(EDGE) + 1) / 2


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"
