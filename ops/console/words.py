"""Times and counts as people read them."""

from datetime import UTC, datetime

#: Seconds in each unit, the largest first.
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def span(seconds: float | None) -> str:
    """`0.21 s`, `12 s`, `3 min`, `5 h`, `2 d`; a dash for none."""
    if seconds is None:
        return "–"
    seconds = max(0.0, seconds)
    if seconds < 9.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    size, unit = next((size, unit) for size, unit in _UNITS if seconds >= size)
    return f"{seconds / size:.0f} {unit}"


def ago(moment: datetime | None) -> str:
    """How long since then; a dash for none."""
    if moment is None:
        return "–"
    seconds = (datetime.now(UTC) - moment).total_seconds()
    return "just now" if seconds < 1 else f"{span(round(seconds) if seconds < 10 else seconds).replace('.0', '')} ago"


def clock(moment: datetime | None) -> str:
    """`2026-11-24 20:00:37.123 UTC`; a dash for none."""
    return "–" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"


def short(name: str | None) -> str:
    """A corp's id, cut as in job descriptions."""
    if not name:
        return "–"
    return name if len(name) <= 8 else f"{name[:8]}…"


def count(number: int) -> str:
    """`12 345`, with narrow no-break spaces."""
    return f"{number:,}".replace(",", "\u202f")
