"""The demonstration: secrets made up where none are set, a simulated DingTalk, and a line for what happens."""

import json
import secrets
import string
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from bridge import config as configuration
from bridge.errors import ConfigError
from ops.web import bind_address
from workers.store.engine import Store
from workers.store.tables import changes, events

#: What listens, from PORT upwards.
PORTS = ("serve", "console", "simulate")
#: Environment variables by which another terminal finds the same demonstration.
PLACE = ("BRIDGE_CONFIG", "BRIDGE_VAR", "PORT")
#: Parts of config.yaml where `${…}` stands for a secret, or a name that only DingTalk gives; others have to be set.
SECRETS = ("apps", "console", "encryption_key")
#: People in the demonstration's organisation, and changes a second.
USERS = 60
PER_SECOND = 0.7
#: Letters and digits of a made-up secret: the length of an aes_key, long enough for every other one.
SECRET_LENGTH = 43
#: Seconds between two looks for what happened.
LOOK_SECONDS = 0.3


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with an embedded Redis and SQLite under `var`, and the simulator's address, whatever it says.

    Each secret of config.yaml that is not set is made up, and kept under `var` for the next time. Raises ConfigError.
    """
    data = configuration.read_file(Path(environ.get("BRIDGE_CONFIG") or configuration.DEFAULT_FILE))
    var = _var(data, environ)
    port = configuration.port("serve", environ) + PORTS.index("simulate")
    given = dict(environ)
    given |= {"BRIDGE_VAR": str(var), "REDIS_URL": "embedded", "DATABASE_URL": f"sqlite:///{var}/dingbridge.db"}
    given |= {"DINGTALK_API": f"http://127.0.0.1:{port}"}
    given |= _made_up(data, environ, var / "demo-secrets.json")
    return given | {"DINGTALK_API": f"http://{address(configuration.load(given).listen, port)}"}


def address(listen: str, port: int) -> str:
    """Where this machine reaches what listens there."""
    return bind_address({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen, listen), port)  # noqa: S104 - compared only


def _var(data: Mapping[str, Any], environ: Mapping[str, str]) -> Path:
    """The folder; the default one where config.yaml refers to what is not set."""
    if given := environ.get("BRIDGE_VAR"):
        return Path(given)
    found = str(data.get("var") or "var")
    for _, name in configuration.references(found):
        if not environ.get(name):
            return Path("var")
        found = found.replace(f"${{{name}}}", environ[name])
    return Path(found)


def _made_up(data: Mapping[str, Any], environ: Mapping[str, str], kept: Path) -> dict[str, str]:
    """A value for each secret that is not set. Raises ConfigError where those of the last time cannot be read."""
    wanted = {name for place, name in configuration.references(data) if place.startswith(SECRETS)}
    missing = sorted(name for name in wanted - environ.keys() if not name.startswith("file:"))
    if not missing:
        return {}
    try:
        known = msgspec.json.decode(kept.read_bytes(), type=dict[str, str]) if kept.exists() else {}
    except (OSError, msgspec.DecodeError):
        raise ConfigError([f"{kept}: cannot be read; delete it, and other secrets are made up"]) from None
    alphabet = string.ascii_letters + string.digits
    made = {name: "".join(secrets.choice(alphabet) for _ in range(SECRET_LENGTH)) for name in missing}
    found = {name: known.get(name, made[name]) for name in missing}
    if found.keys() - known.keys():
        kept.parent.mkdir(parents=True, exist_ok=True)
        nascent = kept.with_suffix(".new")
        nascent.touch(mode=0o600)
        nascent.write_text(json.dumps(known | found, indent=1))
        nascent.replace(kept)  # whoever is killed meanwhile leaves no half of it
    return found


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
