"""What was measured, as a table for people, JSON for programs, and a plot."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from rich.console import Console
from rich.table import Table

from benchmarks.row import Goal, Row, Spread, spread

#: Where results are kept.
RESULTS = Path(__file__).parent / "results"
#: Factor between what must be reached and the edge of the plot.
EDGE = 16
_LEFT, _WIDTH, _LINE, _HEAD = 430, 420, 24, 60


class Result(NamedTuple):
    """A row's figures, one mapping for each round, and the load of the machine (1 minute) at its beginning."""

    row: Row
    rounds: Sequence[Mapping[str, float]]
    load: float

    def figures(self) -> dict[str, Spread]:
        return {name: spread([figures[name] for figures in self.rounds]) for name in self.rounds[0]}

    def goals(self) -> list[tuple[Goal, Spread]]:
        return [(goal, spread([goal.of(figures) for figures in self.rounds])) for goal in self.row.goals]


def show(result: Result, console: Console) -> None:
    """One row's tables."""
    table = Table(
        "figure", "median", "least", "most", title=f"{result.row.name}: {result.row.title}", title_justify="left"
    )
    for name, value in result.figures().items():
        table.add_row(name, *map(_number, value))
    console.print(table)
    table = Table("goal", "median", "least", "most", "at least", "aim", "verdict")
    for goal, value in result.goals():
        limits = (_number(goal.least), _number(goal.aim))
        table.add_row(goal.name, *map(_number, value), *limits, verdict(goal, value))
    if result.row.goals:
        console.print(table)
    console.print(f"{len(result.rounds)} rounds; load of this machine at the beginning {result.load:.1f}")


def verdict(goal: Goal, value: Spread) -> str:
    if goal.hits(value.median):
        return "aim reached"
    return "reached" if goal.holds(value.median) else "NOT reached"


def write(results: Sequence[Result], folder: Path = RESULTS) -> list[Path]:
    """All rows of a run as Markdown, JSON and SVG."""
    folder.mkdir(exist_ok=True)
    texts = {"results.md": _markdown(results), "results.json": _json(results), "results.svg": plot(results)}
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def _machine() -> str:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return f"{len(models)} × {models[0] if models else 'unknown'}, Python {platform.python_version()}"


def _markdown(results: Sequence[Result]) -> str:
    lines = [
        "# Results",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_machine()}. Medians, with the least and the most of all rounds.",
        "",
    ]
    lines += ["![Each goal against what must be reached](results.svg)", ""]
    for result in results:
        lines += [
            f"## {result.row.name}",
            "",
            f"{result.row.title}. {len(result.rounds)} rounds; load at the beginning {result.load:.1f}.",
            "",
        ]
        lines += ["| figure | median | least | most |", "|---|---|---|---|"]
        lines += [f"| {name} | {' | '.join(map(_number, value))} |" for name, value in result.figures().items()]
        lines.append("")
        if result.row.goals:
            lines += ["| goal | median | least | most | at least | aim | verdict |", "|---|---|---|---|---|---|---|"]
        lines += [
            f"| {goal.name} | {' | '.join(map(_number, (*value, goal.least, goal.aim)))} | {verdict(goal, value)} |"
            for goal, value in result.goals()
        ]
        lines.append("")
    return "\n".join(lines)


def _json(results: Sequence[Result]) -> str:
    rows = [
        {
            "row": result.row.name,
            "title": result.row.title,
            "load": result.load,
            "rounds": result.rounds,
            "goals": {
                goal.name: {**value._asdict(), "at least": goal.least, "aim": goal.aim}
                for goal, value in result.goals()
            },
        }
        for result in results
    ]
    return json.dumps({"machine": _machine(), "rows": rows}, indent=1, ensure_ascii=False) + "\n"


def plot(results: Sequence[Result]) -> str:
    """Each goal on a line: how many times better than what must be reached, on a logarithmic scale."""
    goals = [(result.row.name, goal, value) for result in results for goal, value in result.goals()]
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
    for number, (row, goal, value) in enumerate(goals):
        parts += _line(row, goal, value, _HEAD + _LINE * number + 8)
    return "\n".join([*parts, "</svg>", ""])


def _line(row: str, goal: Goal, value: Spread, y: int) -> list[str]:
    median, *ends = (_x(_better(goal, number)) for number in value)
    reached = verdict(goal, value)
    colour = {"aim reached": "#1e8449", "reached": "#2471a3"}.get(reached, "#c0392b")
    aim = _x(_better(goal, goal.aim))
    return [
        f'<text x="{_LEFT - 12}" y="{y + 4}" text-anchor="end">{escape(f"{row}: {goal.name}")}</text>',
        f'<line x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="2"/>',
        f'<line x1="{aim:.1f}" x2="{aim:.1f}" y1="{y - 6}" y2="{y + 6}" stroke="#888" stroke-dasharray="2 2"/>',
        f'<circle cx="{median:.1f}" cy="{y}" r="5" fill="{colour}"/>',
        f'<text x="{_LEFT + _WIDTH + 12}" y="{y + 4}" fill="{colour}">{_number(value.median)}</text>',
    ]


def _better(goal: Goal, value: float) -> float:
    """How many times better than what must be reached."""
    if value <= 0:
        return EDGE
    return value / goal.least if goal.more else goal.least / value


def _x(factor: float) -> float:
    bounded = min(EDGE, max(1 / EDGE, factor))
    return _LEFT + _WIDTH * (math.log(bounded) / math.log(EDGE) + 1) / 2


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"
