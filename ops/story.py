"""What `status` found, told line by line for people."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

Found = Mapping[str, Any]

#: Width of the words that lines begin with.
_WIDTH = 10


def story(found: Found) -> str:
    """The whole story of an event, or of every entity of an id."""
    if "entities" in found:
        return "\n\n".join("\n".join(_entity(found["id"], entity)) for entity in found["entities"])
    return "\n".join(_event(found))


def _event(found: Found) -> Iterator[str]:
    yield _joined(
        f"event {found['id']}:", found.get("type"), _of("of", found.get("corp_id")), _of("at", found.get("app"))
    )
    yield _line("received", _of("by", found.get("via")), _at(found.get("received_at")))
    if found.get("occurred_at"):
        yield _line("occurred", _at(found["occurred_at"]))
    if "queue" in found:
        again = "fed in again," if found["replay"] else None
        waiting = _of("since", _at(found["queued_at"])) if found["job"] in ("queued", "started", "scheduled") else None
        yield _line("queue", again, f"{found['queue']}: {found['job']}", waiting, *_attempts(found))
    yield _line(found["status"], _at(found.get("applied_at")), *_folded(found), found.get("error"))
    for read in found["reads"]:
        yield from _read(read)
    yield from _changes(found)
    yield from _jobs(found)


def _folded(found: Found) -> Iterator[str]:
    if found["status"] == "folded":
        into = found.get("folded_into")
        yield f"into {', '.join(into)}" if into else "into a read that no event asked for"


def _entity(identifier: str, found: Found) -> Iterator[str]:
    gone = _of("gone since", _at(found["deleted_at"]))
    yield _joined(
        f"{found['entity']} {identifier} of {found['corp_id']}", gone, None if found["visible"] else "(hidden)"
    )
    yield from _read(found["read"])
    for event in found["events"]:
        yield _line("event", event["id"], event["type"], event["status"], _of("received", _at(event["received_at"])))
    yield from _changes(found)
    yield from _jobs(found)


def _read(read: Found) -> Iterator[str]:
    what = f"{read['kind']} {read['id']}".rstrip()
    if read["at"]:
        yield _line("read", what, _at(read["at"]), _of("for event", read["event_id"]))
    else:
        yield _line("unread", what)
    if due := read["due"]:
        yield _line("read due", what, _at(due["due_at"]), f"({due['cause']})", *_attempts(due), due["error"])


def _changes(found: Found) -> Iterator[str]:
    for change in found["changes"]:
        by = None if change["event_id"] == found.get("id") else _of("by event", change["event_id"])
        columns = ", ".join(change["columns"])
        yield _line("changed", f"{change['what']} {change['id']}", _of("in", columns), _at(change["changed_at"]), by)


def _jobs(found: Found) -> Iterator[str]:
    for job in found["jobs"]:
        cause = "for the event" if job["change"] is None else f"for change {job['change']}"
        yield _line("job", job["function"], f"{cause}: {job['state']}", _at(job["at"]), *_attempts(job), job.get("why"))


def _attempts(found: Found) -> Iterator[str]:
    if found.get("attempts"):
        yield f"after {found['attempts']} attempts"
    if found.get("next_attempt"):
        yield f"next at {_at(found['next_attempt'])}"


def _line(word: str, *parts: str | None) -> str:
    return f"  {word:<{_WIDTH}} {_joined(*parts)}".rstrip()


def _joined(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _of(word: str, value: str | None) -> str | None:
    return f"{word} {value}" if value else None


def _at(time: datetime | None) -> str | None:
    return time.isoformat(sep=" ", timespec="seconds") if time else None
