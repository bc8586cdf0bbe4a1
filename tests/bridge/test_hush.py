"""A flood of lines is cut short, and the next line says by how many."""

import pytest

from bridge import hush
from bridge.hush import LINES, Hush


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that `Hush` sees."""
    now = [100.0]
    monkeypatch.setattr(hush.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def test_so_many_are_said_in_a_second(clock: list[float]) -> None:
    said = Hush()
    assert [said.unsaid("403") for _ in range(LINES + 3)] == [0] * LINES + [None] * 3


def test_the_next_second_begins_with_what_was_not_said(clock: list[float]) -> None:
    said = Hush()
    for _ in range(LINES + 3):
        said.unsaid("403")
    clock[0] += 1
    assert [said.unsaid("403") for _ in range(2)] == [3, 0]


def test_a_flood_of_one_kind_hides_no_other(clock: list[float]) -> None:
    said = Hush()
    for _ in range(LINES + 1):
        said.unsaid("403")
    assert said.unsaid("503") == 0
