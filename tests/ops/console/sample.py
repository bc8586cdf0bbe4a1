"""Events, jobs and rows to look at, made by the parts that make them in earnest."""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import redis
from rq.job import Job
from rq.job_lifecycle import record_job_failure
from rq.serializers import JSONSerializer

from bridge import messages
from bridge.accept import Acceptor
from bridge.events import Event
from tests.installation import CORP
from workers.claims import Claim, Claims
from workers.comparison import Report
from workers.store import comparisons, ledger
from workers.store.comparisons import Outcome
from workers.store.draft import Change
from workers.store.engine import Store
from workers.store.ledger import Status, Verdict

#: Names that may appear on no page.
USERID, PERSON = "manager4711", "王小明"


def event(number: int, event_type: str = "user_add_org") -> Event:
    message = {
        "EventType": event_type,
        "CorpId": CORP,
        "UserId": [USERID],
        "eventId": f"event-{number}",
        "name": PERSON,
    }
    return messages.parse(json.dumps(message).encode(), "acme", CORP).events[0]


def accept(connection: redis.Redis, count: int, event_type: str = "user_add_org", first: int = 0) -> list[Event]:
    made = [event(number, event_type) for number in range(first, first + count)]
    assert all(Acceptor(connection).accept(made))
    return made


def claim(connection: redis.Redis, limit: int, queue: str = "user_add_org") -> tuple[Claims, list[Claim]]:
    claims = Claims(connection, "worker1", [queue])
    return claims, claims.claim(limit)[0]


def fail(connection: redis.Redis, limit: int, reason: str, queue: str = "user_add_org") -> list[str]:
    """Take so many jobs and give them up, as a worker does; their ids."""
    claims, taken = claim(connection, limit, queue)
    for one in taken:
        job = Job.fetch(one.job_id, connection, JSONSerializer)
        with connection.pipeline() as pipeline:
            claims.drop(one, pipeline)
            record_job_failure(job, reason, pipeline)
            pipeline.execute()
    return [one.job_id for one in taken]


def record(store: Store, made: Sequence[Event], status: Status = "applied", error: str | None = None) -> None:
    """Their final rows, accepted half a second ago."""
    now = datetime.now(UTC)
    with store.writing() as sql:
        stamp = round(now.timestamp() * 1_000_000) - 500_000
        ledger.record(sql, [Verdict(one, stamp, status, error) for one in made], now)


def change(store: Store, event_id: str) -> None:
    """An update and a creation that this event caused."""
    before = {"name": PERSON, "title": "clerk", "mobile": None}
    after = {"name": PERSON, "title": "boss of them all", "mobile": "13800000000"}
    found = [
        Change(CORP, "user", USERID, "update", before, after, event_id, False),
        Change(CORP, "user", USERID, "create", None, after, event_id, False),
    ]
    with store.writing() as sql:
        ledger.log_changes(sql, found, datetime.now(UTC))


def compare(store: Store, outcome: Outcome, stopped: Sequence[str] = ()) -> None:
    """A comparison of the corp that has just ended so."""
    now = time.time_ns() // 1000
    report = Report(CORP, stopped=list(stopped)).as_dict()
    with store.writing() as sql:
        comparisons.know(sql, [CORP], now)
        comparisons.remember(sql, CORP, now, now, outcome, None, report, whole=False, allow_scope=False)
