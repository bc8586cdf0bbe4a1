"""Times and counts as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from ops.console import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"), (-3, "0.00 s"), (0.214, "0.21 s"), (1.26, "1.3 s"), (9.96, "10 s"), (59, "59 s"), (61, "1 min"),
        (3599, "60 min"), (7200, "2 h"), (200_000, "2 d"),
    ],
)  # fmt: skip
def test_span(seconds: float | None, text: str) -> None:
    assert words.span(seconds) == text


def test_moments() -> None:
    now = datetime.now(UTC)
    assert words.ago(now) == "just now"
    assert words.ago(now - timedelta(seconds=4.2)) == "4 s ago"
    assert words.ago(now - timedelta(minutes=5)) == "5 min ago"
    assert words.ago(None) == words.clock(None) == "–"
    assert words.clock(datetime(2026, 11, 24, 20, 0, 37, 123456, UTC)) == "2026-11-24 20:00:37.123 UTC"


def test_names_and_counts() -> None:
    assert (words.short("dingcorp0123"), words.short("ding"), words.short(None)) == ("dingcorp…", "ding", "–")
    assert words.count(1234567) == "1\u202f234\u202f567"
