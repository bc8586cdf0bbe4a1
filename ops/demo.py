"""The demonstration: secrets made up where none are set, a simulated DingTalk, and a line for what happens."""

import json
import secrets
import string
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from bridge import config as configuration
from workers.store.engine import Store
from workers.store.tables import changes, events

#: What listens, from PORT upwards.
PORTS = ("serve", "console", "simulate")
#: People in the demonstration's organisation, and changes a second.
USERS = 60
PER_SECOND = 0.7
#: Letters and digits of a made-up secret: the length of an aes_key, long enough for every other one.
SECRET_LENGTH = 43
#: Seconds between two looks for what happened.
LOOK_SECONDS = 0.3


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with the simulator's address, whatever config.yaml says, and a made-up secret for each that is not set.

    They are kept under `var` for the next time.
    """
    path = Path(environ.get("BRIDGE_CONFIG") or configuration.DEFAULT_FILE)
    data = configuration.read_file(path)
    wanted = {name for _, name in configuration.references(data) if not name.startswith("file:")}
    missing = sorted(wanted - environ.keys())
    kept = Path(environ.get("BRIDGE_VAR") or str(data.get("var", "var"))) / "demo-secrets.json"
    made_up: dict[str, str] = json.loads(kept.read_text()) if kept.exists() else {}
    alphabet = string.ascii_letters + string.digits
    for name in missing:
        made_up.setdefault(name, "".join(secrets.choice(alphabet) for _ in range(SECRET_LENGTH)))
    if missing:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.touch(mode=0o600)
        kept.write_text(json.dumps(made_up, indent=1))
    api = f"http://127.0.0.1:{configuration.port('serve', environ) + PORTS.index('simulate')}"
    return {**environ, **{name: made_up[name] for name in missing}, "DINGTALK_API": api}


def happenings(store: Store, stopping: threading.Event) -> Iterator[str]:
    """A line for each event as its final row appears, until told to stop; without personal data."""
    since = datetime.now(UTC)
    seen: set[str] = set()
    while not stopping.wait(LOOK_SECONDS):
        query = sa.select(events).where(events.c.received_at >= since).order_by(events.c.received_at)
        try:
            with store.reading() as connection:
                rows = [dict(row) for row in connection.execute(query).mappings() if row["id"] not in seen]
                what = {row["id"]: _changed(connection, row["id"]) for row in rows}
        except DBAPIError:
            continue  # it is being made, or away; the worker says so
        for row in rows:
            seen.add(row["id"])
            yield _line(row, what[row["id"]])


def _changed(connection: sa.Connection, event_id: str) -> str:
    query = sa.select(changes.c.entity, changes.c.operation).where(changes.c.event_id == event_id)
    found = [f"{entity} {operation}" for entity, operation in connection.execute(query)]
    return ", ".join(f"{name} ×{found.count(name)}" if found.count(name) > 1 else name for name in dict.fromkeys(found))


def _line(row: Mapping[str, object], changed: str) -> str:
    received, applied = row["received_at"], row["applied_at"]
    lag = ""
    if isinstance(received, datetime) and isinstance(applied, datetime):
        lag = f"after {(applied - received).total_seconds():.2f} s"
    reason = changed or str(row["error"] or "nothing changed")
    return f"{row['type']:<18} {row['status']:<8} {lag:<13} {reason}"
