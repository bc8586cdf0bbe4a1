"""`dingbridge replay` as an operator meets it, on a real installation."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import workers
from bridge import messages
from bridge.accept import Acceptor
from tests.installation import CORP, Installation, installed
from tests.ops.test_cli import dingbridge
from tests.workers.helpers import an_event
from workers.directory import Change, Directory, Event
from workers.fold import Waiting
from workers.jobworker import JobWorker
from workers.registry import Registry
from workers.store import tables

#: Events of a large range.
MANY = 10_000

seen: list[Any] = []


@pytest.fixture
def place(
    redis_url: str, datastore_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Installation]:
    registry = Registry()
    monkeypatch.setattr(workers, "registry", registry)
    seen.clear()

    @registry.on("user_modify_org")
    def told(event: Event, directory: Directory) -> None:
        seen.append(event.id)

    @registry.on_change("user")
    def changed(change: Change, directory: Directory) -> None:
        seen.append((change.operation, change.event_id))

    with installed(redis_url, datastore_url, tmp_path) as installation:
        yield installation


def someone(place: Installation) -> str:
    return str(next(row["userid"] for row in place.simulator.truth("acme")["users"] if not row["admin"]))


def tell(place: Installation, userid: str, event_id: str) -> None:
    message = {"EventType": "user_modify_org", "eventId": event_id, "CorpId": CORP, "userId": [userid]}
    parsed = messages.parse(json.dumps(message).encode(), "acme", CORP)
    assert all(Acceptor(place.parts.connection).accept(parsed.events))


def work_off(place: Installation) -> None:
    place.work_off()
    worker = JobWorker(["jobs"], place.parts.connection, place.parts.store, place.parts.registry)
    while worker.turn():
        pass


def replay(place: Installation, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return dingbridge("replay", *arguments, environ=place.environment(), folder=place.folder)


def counted(place: Installation, *arguments: str) -> dict[str, int]:
    shown = replay(place, *arguments, "--json")
    assert (shown.returncode, shown.stderr) == (0, "")
    return dict(json.loads(shown.stdout))


def test_a_replay_reads_again_keeps_the_row_and_runs_no_function(place: Installation) -> None:
    userid = someone(place)
    tell(place, userid, "e1")
    work_off(place)
    (before,) = place.rows(tables.events)
    seen.clear()
    place.simulator.change("acme", "user_modify_org", userid, deliver=False)
    one = {"events": 1, "fed_in": 0, "still_waiting": 0, "lost": 0}
    assert counted(place, "e1", "--dry-run") == one
    assert place.parts.connection.exists("rq:queue:user_modify_org") == 0
    assert counted(place, "e1") == one | {"fed_in": 1}
    assert counted(place, "--entity", f"user:{userid}") == one | {"still_waiting": 1}
    work_off(place)
    assert place.rows(tables.events) == [before]
    first, second = (row["operation"] for row in place.rows(tables.changes) if row["entity_id"] == userid)
    assert (first, second) == ("create", "update")
    assert seen == []


def test_a_replay_with_jobs_runs_the_functions_again(place: Installation) -> None:
    userid = someone(place)
    tell(place, userid, "e1")
    work_off(place)
    seen.clear()
    place.simulator.change("acme", "user_modify_org", userid, deliver=False)
    assert counted(place, "--type", "user_modify_org", "--jobs")["fed_in"] == 1
    work_off(place)
    assert sorted(seen, key=str) == [("update", "e1"), "e1"]
    assert {row["via"] for row in place.rows(tables.events)} == {"http"}


def test_a_failed_event_becomes_applied(place: Installation) -> None:
    event = an_event(users=[someone(place)], event_id="e1")
    place.parts.folder.fail(Waiting(event, place.parts.clock.now()), "given up")
    (before,) = place.rows(tables.events)
    assert counted(place, "--status", "failed", "--corp", CORP)["fed_in"] == 1
    work_off(place)
    (after,) = place.rows(tables.events)
    assert (after["status"], after["error"]) == ("applied", None)
    assert (after["received_at"], after["payload"]) == (before["received_at"], before["payload"])


def test_what_cannot_be_fed_in_is_named_and_the_rest_is_fed_in(place: Installation) -> None:
    tell(place, someone(place), "e1")
    work_off(place)
    shown = replay(place, "e1", "e2")
    assert (shown.returncode, shown.stdout) == (1, "1 events were fed in again\n")
    assert shown.stderr == "e2 cannot be fed in again: no such event is recorded\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which events"),
        (["e1", "--corp", "x"], "not both"),
        (["--since", "yesterday"], "yesterday is no time: write 2026-01-31"),
        (["--since", "2026-01-02", "--until", "2026-01-01T23:00Z"], "--since must be before --until"),
        (["--until", "0001-01-01T00:00+08:00"], "is no time"),
        (["--entity", "user:"], "names no entity"),
        (["--entity", "department:many"], "names no entity"),
        (["--entity", f"role:{2**63}"], "names no entity"),
        (["--status", "done"], "'failed'"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], said: str, tmp_path: Path) -> None:
    shown = dingbridge("replay", *arguments, environ=os.environ, folder=tmp_path)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert said in " ".join(shown.stderr.split())


def record_many(place: Installation, count: int, corp: str) -> None:
    """Recorded events; some were received at the same moment, as `accept` takes many in one call."""
    payload = {"EventType": "user_modify_org", "CorpId": corp, "userId": ["u"], "diffInfo": "x" * 400}
    row: dict[str, Any] = {
        "app": "acme",
        "corp_id": corp,
        "type": "user_modify_org",
        "via": "http",
        "status": "applied",
    }
    row |= {"payload": payload, "user_ids": ["u"], "dept_ids": [], "role_ids": []}
    begun = datetime(2026, 1, 31, tzinfo=UTC)
    with place.parts.store.writing() as connection:
        for at in range(0, count, 100):
            some = {"received_at": begun + timedelta(seconds=at)}
            rows = [row | some | {"id": f"{corp}-{number}"} for number in range(at, at + 100)]
            connection.execute(sa.insert(tables.events), rows)


def peak(place: Installation, corp: str) -> tuple[int, int]:
    """How many were fed in, and how much memory the process held at most."""
    # A child begins with its parent's peak, so the parent is a small one.
    small = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True)"
    small += "; print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-c", small, sys.executable, "-m", "ops", "replay", "--corp", corp, "--json"]
    shown = subprocess.run(command, env=place.environment(), cwd=place.folder, capture_output=True, check=True)
    told, held = shown.stdout.splitlines()
    return json.loads(told)["fed_in"], int(held)


def test_a_large_range_takes_no_more_memory_than_a_small_one(redis_url: str, tmp_path: Path) -> None:
    with installed(redis_url, f"sqlite:///{tmp_path}/d.db", tmp_path) as place:
        record_many(place, 1000, "dingsmall")
        record_many(place, MANY, "dinglarge")
        (few, small), (many, large) = peak(place, "dingsmall"), peak(place, "dinglarge")
        assert (few, many) == (1000, MANY)
        assert place.parts.connection.llen("rq:queue:user_modify_org") == few + many
    assert large < small * 1.1
