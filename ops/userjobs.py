"""What became of the jobs that users' functions were owed: done, waiting, put off or failed, and why."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import redis
import sqlalchemy as sa
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text
from sqlalchemy.engine import Connection

from workers.jobs import job_id
from workers.store.tables import finished_jobs, outbox

#: What RQ calls a job's state, in this command's words.
_STATES = {"queued": "waiting", "started": "running", "scheduled": "put off"}
#: The kind of an exception: the word that follows the frames of its traceback. What follows it is its message.
_KIND = re.compile(r'^  File ".*\n(?:  .*\n)*([A-Za-z_][\w.<>]*)(?::|$)', re.MULTILINE | re.ASCII)
#: What stands between an exception and the one that came of it.
_CHAINED = re.compile(r"^(?:During handling of|The above exception was) .*:$", re.MULTILINE)
#: What a group of exceptions puts before each line of its own.
_GROUPED = re.compile(r"^  [|+] ", re.MULTILINE)


def jobs_of(event_id: str | None, seqs: list[int], connection: redis.Redis, sql: Connection) -> list[dict[str, Any]]:
    """The jobs of an event and of these changes, in the order they were owed."""
    found = []
    for table in (finished_jobs, outbox):
        owed = sa.or_(table.c.change_seq.in_(seqs), table.c.event_id == event_id if event_id else sa.false())
        found += [dict(row) for row in sql.execute(sa.select(table).where(owed)).mappings()]
    return [_job(row, connection) for row in sorted(found, key=lambda row: row["id"])]


def owing_queues(sql: Connection) -> dict[str, int]:
    """How many jobs are owed on each queue; 0 where all have failed, and can be requeued.

    A function that names another queue than before has left its jobs on the old one.
    """
    owed = sa.func.count().filter(outbox.c.failed_at.is_(None)).label("owed")
    query = sa.select(outbox.c.queue, owed).group_by(outbox.c.queue)
    return {row.queue: row.owed for row in sql.execute(query)}


def _job(row: Mapping[str, Any], connection: redis.Redis) -> dict[str, Any]:
    shown = {"function": row["function"], "change": row["change_seq"]}
    if "finished_at" in row:
        return shown | {"state": "done", "at": row["finished_at"]}
    key = job_id(row["id"])
    status, attempts = connection.hmget(f"rq:job:{key}", ("status", "number_of_retries"))
    shown["attempts"] = int(attempts or 0)
    if row["failed_at"] is not None:
        return shown | {"state": "failed", "at": row["failed_at"], "why": _reason(key, connection)}
    due = connection.zscore(f"rq:scheduled:{row['queue']}", key)
    shown["next_attempt"] = None if due is None else datetime.fromtimestamp(due, UTC)
    # Without a job in Redis the clock will enqueue it.
    state = _STATES.get(as_text(status or b""), "owed")
    return shown | {"state": state, "at": row["enqueued_at"]}


def _reason(key: str, connection: redis.Redis) -> str:
    """Our own words in full; of a function's exception the kind alone, as its message may hold people's data."""
    try:
        result = Job.fetch(key, connection=connection, serializer=JSONSerializer).latest_result()
    except NoSuchJobError:
        result = None
    text = str(result.exc_string).strip() if result else ""
    first = text.partition("\n")[0]
    if "Traceback (most recent call last)" in first:
        kind = _KIND.search(_CHAINED.split(_GROUPED.sub("", text))[-1])
        return kind[1] if kind else "an exception"
    return first or "Redis keeps no reason"
