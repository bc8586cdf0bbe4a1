"""Users' functions: owed with the commit, run in order and at least once, and nothing else is ever called."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import sqlalchemy as sa
from rq import Queue
from rq.job import Job
from rq.registry import FailedJobRegistry, ScheduledJobRegistry
from rq.serializers import JSONSerializer

import workers
from bridge import messages
from bridge.accept import Acceptor
from tests.installation import CORP, Installation, installed
from tests.servers import flush
from workers import jobs
from workers.clock import Clock
from workers.copy import Copy
from workers.directory import Change, Directory, Event
from workers.jobworker import JobWorker
from workers.registry import Registry
from workers.store import tables
from workers.store.draft import SILENT_COLUMNS

seen: list[Any] = []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    fresh = Registry()
    monkeypatch.setattr(workers, "registry", fresh)
    seen.clear()
    return fresh


@pytest.fixture
def place(registry: Registry, redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, datastore_url, tmp_path) as installation:
        yield installation


def tell(place: Installation, event_type: str, userid: str, event_id: str = "e1", again: bool = False) -> None:
    message = {"EventType": event_type, "eventId": event_id, "CorpId": CORP, "userId": [userid]}
    parsed = messages.parse(json.dumps(message).encode(), "acme", CORP, "replay" if again else "http")
    Acceptor(place.parts.connection).accept(parsed.events, again=again)


def someone(place: Installation) -> str:
    return str(next(row["userid"] for row in place.simulator.truth("acme")["users"] if not row["admin"]))


def hand(place: Installation) -> JobWorker:
    return JobWorker(["jobs"], place.parts.connection, place.parts.store, place.parts.registry)


def sync(place: Installation) -> None:
    while place.worker.turn():
        pass


def work_off(place: Installation) -> None:
    """The sync worker until nothing is due, then the job worker until its queue is empty."""
    sync(place)
    worker = hand(place)
    while worker.turn():
        pass


def make_due(place: Installation) -> None:
    for job in place.parts.connection.zrange("rq:scheduled:jobs", 0, -1):
        place.parts.connection.zadd("rq:scheduled:jobs", {job: 1})  # type: ignore[type-var]


def queue(place: Installation) -> Queue:
    return Queue("jobs", connection=place.parts.connection, serializer=JSONSerializer)


def test_an_event_runs_its_functions_once_the_datastore_has_caught_up(place: Installation, registry: Registry) -> None:
    @registry.on("user_modify_org")
    def note(event: Event, directory: Directory) -> None:
        user = directory.user(event.user_ids[0])
        assert user is not None
        assert event.payload is not None
        seen.append((event.id, event.corp_id, event.app, user["unionid"], event.payload["eventId"]))

    userid = someone(place)
    tell(place, "user_modify_org", userid)
    work_off(place)
    unionid = next(row["unionid"] for row in place.simulator.truth("acme")["users"] if row["userid"] == userid)
    assert seen == [("e1", CORP, "acme", unionid, "e1")]
    assert place.rows(tables.outbox) == []


def test_a_repeat_makes_no_second_job_and_a_folded_event_makes_its_own(place: Installation, registry: Registry) -> None:
    registry.on("user_modify_org")(lambda event, directory: seen.append(event.id))
    userid = someone(place)
    for event_id in ("e1", "e2", "e1"):
        tell(place, "user_modify_org", userid, event_id)
    work_off(place)
    assert sorted(seen) == ["e1", "e2"]
    assert {row["status"] for row in place.rows(tables.events)} == {"applied", "folded"}


def test_changes_come_in_order_and_exactly_as_committed(place: Installation, registry: Registry) -> None:
    @registry.on_change("user")
    def note(change: Change, directory: Directory) -> None:
        seen.append(change)

    userid = someone(place)
    tell(place, "user_modify_org", userid, "first")
    sync(place)
    for number, event_type in enumerate(("org_admin_add", "user_leave_org")):
        place.simulator.change("acme", event_type, userid, deliver=False)
        tell(place, event_type, userid, f"then-{number}")
        sync(place)
    work_off(place)
    ours = [change for change in seen if change.entity_id == userid]
    assert [change.operation for change in ours] == ["create", "update", "delete"]
    assert [change.event_id for change in ours] == ["first", "then-0", "then-1"]
    assert ours[0].before is None
    told = {name: value for name, value in ours[0].after.items() if name not in SILENT_COLUMNS}
    assert told.items() <= ours[1].before.items()
    assert (ours[1].before["admin"], ours[1].after["admin"]) == (False, True)
    assert ours[2].before["departments"]
    assert ours[2].after["departments"] == ours[2].after["roles"] == []
    assert sorted(change.seq for change in ours) == [change.seq for change in ours]


def test_one_that_fails_is_tried_again_and_holds_up_no_other(place: Installation, registry: Registry) -> None:
    @registry.on("user_modify_org", retries=2)
    def fail(event: Event, directory: Directory) -> None:
        seen.append("tried")
        raise LookupError("not yet")

    registry.on("user_modify_org")(lambda event, directory: seen.append("fine"))
    tell(place, "user_modify_org", someone(place))
    work_off(place)
    assert sorted(seen) == ["fine", "tried"]
    assert ScheduledJobRegistry(queue=queue(place)).count == 1
    for _ in range(2):
        make_due(place)
        work_off_jobs(place)
    assert seen.count("tried") == 3
    (failed,) = FailedJobRegistry(queue=queue(place)).get_job_ids()
    found = Job.fetch(failed, connection=place.parts.connection, serializer=JSONSerializer)
    result = found.latest_result()
    assert result is not None
    assert "LookupError: not yet" in str(result.exc_string)
    (row,) = place.rows(tables.outbox)
    assert row["failed_at"] is not None


def work_off_jobs(place: Installation) -> None:
    worker = hand(place)
    while worker.turn():
        pass


def test_a_failed_one_runs_when_it_is_requeued(place: Installation, registry: Registry) -> None:
    broken = [True]

    @registry.on("user_modify_org", retries=0)
    def note(event: Event, directory: Directory) -> None:
        if broken:
            raise LookupError("not yet")
        seen.append(event.id)

    tell(place, "user_modify_org", someone(place))
    work_off(place)
    broken.clear()
    failed = FailedJobRegistry(queue=queue(place))
    failed.requeue(failed.get_job_ids()[0])
    work_off_jobs(place)
    assert seen == ["e1"]
    assert place.rows(tables.outbox) == []


def test_a_replay_and_a_first_copy_run_none(place: Installation, registry: Registry) -> None:
    @registry.on("user_modify_org")
    def happened(event: Event, directory: Directory) -> None:
        seen.append(event.id)

    @registry.on_change("user")
    def changed(change: Change, directory: Directory) -> None:
        seen.append(change.seq)

    client = place.parts.readers.client(CORP)
    assert client is not None
    parts = place.parts
    for _ in Copy(parts.store, parts.clock, parts.folder, client, CORP).run():
        pass
    tell(place, "user_modify_org", someone(place), "e9", again=True)
    work_off(place)
    assert seen == []
    assert place.rows(tables.outbox) == []


@pytest.mark.parametrize(
    "data",
    [
        b'["os.system",null,["touch /tmp/dingbridge-was-here"],{}]',
        b'["workers.jobs.run",null,[1,99],{}]',
        b'["workers.jobs.run",null,["1",1],{}]',
        b"\x80\x04cos\nsystem\n.",
        b"[1]",
    ],
)
def test_a_job_of_another_kind_is_refused_and_nothing_it_names_is_called(place: Installation, data: bytes) -> None:
    connection = place.parts.connection
    named = {"success_callback_name": "os.abort", "failure_callback_name": "os.abort"}
    fields = {"data": data, "origin": "jobs", "status": "queued", "created_at": "2026-01-01T00:00:00.000000Z"}
    connection.hset("rq:job:alien", mapping=fields | named)
    connection.rpush("rq:queue:jobs", "alien")
    assert hand(place).turn()
    assert FailedJobRegistry(queue=queue(place)).get_job_ids() == ["alien"]


def test_the_clock_enqueues_what_an_emptied_redis_no_longer_has(
    place: Installation, registry: Registry, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.on("user_modify_org")(lambda event, directory: seen.append(event.id))
    tell(place, "user_modify_org", someone(place))
    sync(place)
    flush(redis_url)
    monkeypatch.setattr("workers.clock.GRACE_SECONDS", 0)
    parts = place.parts
    dispatcher = jobs.Dispatcher(parts.store, parts.connection)
    clock = Clock(parts.connection, parts.store, dispatcher, place.config.retention)
    assert clock.sweep_outbox() == 1
    assert clock.sweep_outbox() == 0
    work_off_jobs(place)
    assert seen == ["e1"]


def test_a_crash_between_commit_and_dispatch_loses_none(
    place: Installation, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.on("user_modify_org")(lambda event, directory: seen.append(event.id))
    tell(place, "user_modify_org", someone(place))

    def die(dispatcher: jobs.Dispatcher, lanes: object) -> int:
        raise redis.ConnectionError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(jobs.Dispatcher, "dispatch", die)
        with pytest.raises(redis.ConnectionError):
            place.worker.turn()
    (row,) = place.rows(tables.outbox)
    assert row["enqueued_at"] is None
    parts = place.parts
    dispatcher = jobs.Dispatcher(parts.store, parts.connection)
    assert Clock(parts.connection, parts.store, dispatcher, place.config.retention).sweep_outbox() == 1
    work_off_jobs(place)
    assert seen == ["e1"]


def test_what_is_past_its_time_is_forgotten_but_not_what_is_owed(place: Installation, registry: Registry) -> None:
    registry.on("user_modify_org")(lambda event, directory: seen.append(event.id))
    tell(place, "user_modify_org", someone(place), "owed")
    tell(place, "user_active_org", someone(place), "old")
    sync(place)
    with place.parts.store.writing() as connection:
        old = sa.func.coalesce(sa.null(), sa.literal("2020-01-01T00:00:00+00:00"))
        if connection.dialect.name == "postgresql":
            old = sa.cast(old, sa.DateTime(timezone=True))  # type: ignore[assignment]
        connection.execute(sa.update(tables.events).values(received_at=old))
    parts = place.parts
    clock = Clock(parts.connection, parts.store, jobs.Dispatcher(parts.store, parts.connection), place.config.retention)
    clock.prune()
    assert [row["id"] for row in place.rows(tables.events)] == ["owed"]
