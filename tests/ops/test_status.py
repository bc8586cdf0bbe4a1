"""`dingbridge status` tells the whole story of an event and of an entity, at every station, and of people only ids."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import workers
from bridge import messages
from bridge.accept import Acceptor
from ops.standing import standing
from ops.story import story
from tests.installation import CORP, Installation, installed
from tests.servers import flush
from workers.claims import Claims
from workers.directory import Change, Directory, Event
from workers.jobworker import JobWorker
from workers.registry import Registry
from workers.store import tables


def say(what: str) -> None:
    raise LookupError(what)


def say_in_lines(what: str) -> None:
    raise LookupError(f'  File "{what}"\n{what}: {what}\n{what}')


def say_after_another(what: str) -> None:
    try:
        say(what)
    except LookupError as error:
        raise ValueError(what) from error


def say_with_a_note(what: str) -> None:
    error = PermissionError(what)
    error.add_note(f"{what}:")
    raise error


def say_together(what: str) -> None:
    raise ExceptionGroup(what, [LookupError(what), LookupError(f"\n{what}: {what}")])


class OfMine(Exception):
    """One whose name is longer."""


def say_nothing(_what: str) -> None:
    raise OfMine


@pytest.fixture
def fault() -> Callable[[str], None]:
    """How the function of a user's fails, given what it must not tell."""
    return say


@pytest.fixture
def place(
    redis_url: str,
    datastore_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[str], None],
) -> Iterator[Installation]:
    registry = Registry()
    monkeypatch.setattr(workers, "registry", registry)

    @registry.on("user_modify_org", retries=0)
    def break_down(event: Event, directory: Directory) -> None:
        fault(str((directory.user(event.user_ids[0]) or {})["name"]))

    @registry.on_change("user")
    def do_well(change: Change, directory: Directory) -> None:
        """Nothing goes wrong."""

    with installed(redis_url, datastore_url, tmp_path) as installation:
        yield installation


def someone(place: Installation) -> dict[str, Any]:
    return next(dict(row) for row in place.simulator.truth("acme")["users"] if not row["admin"])


def tell(place: Installation, userid: str, event_id: str, again: bool = False) -> None:
    message = {"EventType": "user_modify_org", "eventId": event_id, "CorpId": CORP, "userId": [userid]}
    parsed = messages.parse(json.dumps(message).encode(), "acme", CORP, "replay" if again else "http")
    assert Acceptor(place.parts.connection).accept(parsed.events, again=again) == [True]


def found(place: Installation, identifier: str) -> dict[str, Any]:
    shown = standing(identifier, place.parts.connection, place.parts.store)
    assert shown is not None
    return shown


def told(place: Installation, identifier: str) -> str:
    return story(found(place, identifier))


def run_jobs(place: Installation) -> None:
    worker = JobWorker(["jobs"], place.parts.connection, place.parts.store, place.parts.registry)
    while worker.turn():
        pass


def test_an_event_that_waits_says_since_when(place: Installation) -> None:
    userid = someone(place)["userid"]
    tell(place, userid, "e1")
    shown = found(place, "e1")
    assert (shown["status"], shown["queue"], shown["job"], shown["via"]) == (
        "waiting",
        "user_modify_org",
        "queued",
        "http",
    )
    assert shown["received_at"] == shown["queued_at"] is not None
    assert shown["reads"] == [{"kind": "user", "id": userid, "at": None, "event_id": None, "due": None}]
    text = told(place, "e1")
    assert text.startswith(f"event e1: user_modify_org of {CORP} at acme\n  received   by http 20")
    assert "\n  queue      user_modify_org: queued since 20" in text
    assert f"\n  unread     user {userid}" in text


def test_an_event_that_is_put_off_says_until_when_and_how_often(place: Installation) -> None:
    tell(place, someone(place)["userid"], "e1")
    claims = Claims(place.parts.connection, "worker1", ["user_modify_org"])
    (claim,), _ = claims.claim(1)
    assert found(place, "e1")["job"] == "started"
    claims.put_off(claim, 60, 3)
    shown = found(place, "e1")
    assert (shown["job"], shown["attempts"]) == ("scheduled", 3)
    assert 50 < (shown["next_attempt"] - shown["queued_at"]).total_seconds() < 90
    assert "after 3 attempts next at 20" in told(place, "e1")


def test_an_applied_event_tells_what_was_read_what_changed_and_whose_jobs_ran(place: Installation) -> None:
    person = someone(place)
    tell(place, person["userid"], "e1")
    assert place.worker.turn()
    (read,) = found(place, "e1")["reads"]
    assert (read["event_id"], read["due"]["cause"]) == ("e1", "echo")
    assert {job["state"] for job in found(place, "e1")["jobs"]} == {"waiting"}
    place.work_off()
    run_jobs(place)
    shown = found(place, "e1")
    assert shown["status"] == "applied"
    assert (shown["reads"][0]["event_id"], shown["reads"][0]["due"]) == ("e1", None)
    assert "user create" in [change["what"] for change in shown["changes"]]
    jobs = {job["function"].rpartition(".")[2]: job for job in shown["jobs"]}
    assert jobs["do_well"]["state"] == "done"
    assert (jobs["break_down"]["state"], jobs["break_down"]["why"]) == ("failed", "LookupError")
    text = told(place, "e1")
    assert "\n  applied    20" in text
    assert f"changed    user create {person['userid']} 20" in text
    assert "for the event: failed 20" in text
    assert text.rstrip().endswith("LookupError")


@pytest.mark.parametrize("datastore_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (say_in_lines, "LookupError"),
        (say_after_another, "ValueError"),
        (say_with_a_note, "PermissionError"),
        (say_together, "ExceptionGroup"),
        (say_nothing, f"{__name__}.OfMine"),
    ],
)
def test_of_a_failed_jobs_exception_it_tells_the_kind_alone(place: Installation, kind: str) -> None:
    person = someone(place)
    place.simulator.tenants[CORP].put_user(
        replace(place.simulator.tenants[CORP].users.rows[person["userid"]], name="Zhangsan")
    )
    tell(place, person["userid"], "e1")
    place.work_off()
    run_jobs(place)
    assert [job["why"] for job in found(place, "e1")["jobs"] if job["state"] == "failed"] == [kind]
    assert "Zhangsan" not in told(place, "e1")


def test_a_job_that_is_nowhere_is_still_owed(place: Installation, redis_url: str) -> None:
    tell(place, someone(place)["userid"], "e1")
    place.worker.turn()
    flush(redis_url)
    assert {job["state"] for job in found(place, "e1")["jobs"]} == {"owed"}


def test_a_failed_job_whose_reason_redis_has_lost_says_so(place: Installation, redis_url: str) -> None:
    tell(place, someone(place)["userid"], "e1")
    place.worker.turn()
    run_jobs(place)
    flush(redis_url)
    assert [job["why"] for job in found(place, "e1")["jobs"] if job["state"] == "failed"] == ["Redis keeps no reason"]


def test_a_folded_event_names_the_one_that_did_it(place: Installation) -> None:
    userid = someone(place)["userid"]
    tell(place, userid, "e1")
    tell(place, userid, "e2")
    place.work_off()
    assert found(place, "e2")["folded_into"] == ["e1"]
    assert "\n  folded     20" in told(place, "e2")
    assert " into e1\n" in told(place, "e2")


def test_a_replayed_event_says_that_it_waits_again(place: Installation) -> None:
    tell(place, someone(place)["userid"], "e1")
    place.work_off()
    tell(place, someone(place)["userid"], "e1", again=True)
    shown = found(place, "e1")
    assert (shown["status"], shown["via"], shown["replay"], shown["job"]) == ("applied", "http", True, "queued")
    assert "queue      fed in again, user_modify_org: queued since" in told(place, "e1")


def test_an_entity_tells_its_reads_events_changes_and_jobs(place: Installation) -> None:
    userid = someone(place)["userid"]
    tell(place, userid, "e1")
    place.work_off()
    place.simulator.change("acme", "user_leave_org", userid, deliver=False)
    tell(place, userid, "e2")
    place.work_off()
    run_jobs(place)
    (entity,) = found(place, userid)["entities"]
    assert [event["id"] for event in entity["events"]] == ["e2", "e1"]
    assert [change["what"] for change in entity["changes"]] == ["user delete", "user create"]
    assert [job["state"] for job in entity["jobs"]] == ["done", "done"]
    text = told(place, userid)
    assert text.startswith(f"user {userid} of {CORP} gone since 20")
    assert "for event e2" in text
    assert "changed    user delete" in text


def test_an_entity_tells_of_events_that_wait_also_before_its_first_read(place: Installation) -> None:
    userid = someone(place)["userid"]
    tell(place, userid, "e1")
    (unread,) = found(place, userid)["entities"]
    assert [(event["id"], event["status"]) for event in unread["events"]] == [("e1", "waiting")]
    text = told(place, userid)
    assert text.startswith(f"user {userid} of {CORP}\n  unread     user {userid}\n")
    assert "\n  event      e1 user_modify_org waiting" in text
    place.work_off()
    tell(place, userid, "e2")
    tell(place, userid, "e1", again=True)
    (known,) = found(place, userid)["entities"]
    assert sorted((event["id"], event["status"]) for event in known["events"]) == [("e1", "waiting"), ("e2", "waiting")]
    place.work_off()
    assert {event["status"] for event in found(place, userid)["entities"][0]["events"]} <= {"applied", "folded"}


def test_a_role_its_group_and_the_corp_have_a_story_too(place: Installation) -> None:
    message = {"EventType": "label_conf_add", "eventId": "e1", "CorpId": CORP}
    change = {"EventType": "org_change", "eventId": "e2", "CorpId": CORP}
    role = place.simulator.truth("acme")["roles"][0]
    message["LabelIdList"] = [role["role_id"]]  # type: ignore[assignment]
    for told_of in (message, change):
        Acceptor(place.parts.connection).accept(messages.parse(json.dumps(told_of).encode(), "acme", CORP).events)
    place.work_off()
    for identifier, kind, by in (
        (str(role["role_id"]), "role", "e1"),
        (str(role["group_id"]), "role_group", "e1"),
        (CORP, "corp", "e2"),
    ):
        (entity,) = found(place, identifier)["entities"]
        assert (entity["entity"], entity["read"]["event_id"], len(entity["changes"])) == (kind, by, 1)
    assert [event["id"] for event in found(place, str(role["role_id"]))["entities"][0]["events"]] == ["e1"]


def test_of_people_it_tells_ids_and_names_of_columns_alone(place: Installation) -> None:
    person = someone(place)
    tell(place, person["userid"], "e1")
    place.work_off()
    place.simulator.change("acme", "user_modify_org", person["userid"], deliver=False)
    tell(place, person["userid"], "e2")
    place.work_off()
    run_jobs(place)
    known = [row[name] for row in (person, someone(place)) for name in ("name", "mobile", "unionid", "email")]
    known += [row["name"] for row in place.rows(tables.users)]
    for identifier in ("e1", "e2", person["userid"]):
        shown = told(place, identifier) + json.dumps(found(place, identifier), default=str, ensure_ascii=False)
        assert [value for value in known if value and value in shown] == []


def test_what_is_not_known_has_no_story(place: Installation) -> None:
    assert standing("nobody", place.parts.connection, place.parts.store) is None
    assert standing("9" * 30, place.parts.connection, place.parts.store) is None


def test_a_job_that_no_worker_can_read_is_shown_as_it_lies(place: Installation) -> None:
    place.parts.connection.hset("rq:job:e1", mapping={"data": b"?", "status": "failed", "origin": "other"})
    assert told(place, "e1").splitlines() == ["event e1:", "  received", "  queue      other: failed", "  waiting"]
