"""The RQ worker that runs users' functions: those that are registered, and nothing else that a job may name."""

import random
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import redis
import sqlalchemy as sa
import structlog
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from sqlalchemy.engine import Connection

from workers.claimer import Claimer, first_line
from workers.claims import MAX_LONE_DEATHS, Claim
from workers.directory import Change, Event, StoreDirectory
from workers.errors import UnknownJob
from workers.jobs import JOB_FUNCTION, JOB_TIMEOUT, VERSION
from workers.registry import Registry, UserJob
from workers.store import ledger
from workers.store.engine import Store
from workers.store.tables import changes, events, outbox

#: Seconds between two attempts, the last for all further ones; each with up to 25 % more.
RETRY_SECONDS = (5, 30, 120, 600, 1800)

log = structlog.get_logger()


class JobWorker(Claimer):
    """Takes users' jobs one at a time. A function that hangs is interrupted after JOB_TIMEOUT."""

    def __init__(self, names: Sequence[str], connection: redis.Redis, store: Store, registry: Registry) -> None:
        super().__init__(names, connection)
        self._store = store
        self._registry = registry

    def turn(self) -> bool:
        """One job."""
        self.upkeep()
        claims, self.put_off_due = self.claims.claim(1)
        for claim in claims:
            self._do(claim)
        return bool(claims)

    def _do(self, claim: Claim) -> None:
        try:
            outbox_id = _read(claim)
            with self._store.reading() as connection:
                row = connection.execute(sa.select(outbox).where(outbox.c.id == outbox_id)).mappings().first()
                argument = None if row is None else _argument(connection, dict(row))
        except UnknownJob as error:
            self.fail(claim, str(error))
            return
        if row is None or argument is None:
            self.claims.finish([claim])  # it was done before; this is its second coming
            return
        job = self._registry.find(row["function"])
        if job is None:
            self._give_up(claim, outbox_id, f"no module of `jobs:` in config.yaml registers {row['function']}")
        elif claim.lone_deaths >= MAX_LONE_DEATHS:
            self._give_up(claim, outbox_id, f"it ended {claim.lone_deaths} workers")
        else:
            self._call(claim, outbox_id, job, argument)

    def _call(self, claim: Claim, outbox_id: int, job: UserJob, argument: Event | Change) -> None:
        directory = StoreDirectory(self._store, argument.corp_id)
        try:
            with UnixSignalDeathPenalty(  # type: ignore[no-untyped-call]
                JOB_TIMEOUT, JobTimeoutException, job_id=claim.job_id
            ):
                job.function(argument, directory)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever it is, it is the function's; an attempt
            attempts = claim.attempts + 1
            if attempts > job.retries:
                self._give_up(claim, outbox_id, traceback.format_exc())
                return
            seconds = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1] * random.uniform(1.0, 1.25)  # noqa: S311
            log.warning(
                "will try again", job=claim.job_id, function=job.name, attempt=attempts, reason=first_line(error)
            )
            self.claims.put_off(claim, seconds, attempts)
            return
        # The row first: should we die before Redis knows, its second coming finds nothing to do.
        with self._store.writing() as connection:
            ledger.finish_job(connection, outbox_id, datetime.now(UTC))
        self.claims.finish([claim])

    def _give_up(self, claim: Claim, outbox_id: int, reason: str) -> None:
        """Only a person starts it again, from RQ's failed registry."""
        with self._store.writing() as connection:
            connection.execute(sa.update(outbox).where(outbox.c.id == outbox_id).values(failed_at=datetime.now(UTC)))
        self.fail(claim, reason)


def _read(claim: Claim) -> int:
    """The outbox row that a job is for. Raises UnknownJob for a job of any other kind: nothing it names is called."""
    try:
        function, _, arguments, _ = msgspec.json.decode(claim.plain(), type=tuple[str, Any, list[Any], dict[str, Any]])
    except ValueError as error:
        raise UnknownJob(f"no user's job: {error}") from None
    if function != JOB_FUNCTION or len(arguments) != 2 or arguments[1] != VERSION or not isinstance(arguments[0], int):
        raise UnknownJob(f"the job names {function[:80]}, which is no user's job of version {VERSION}")
    return arguments[0]


def _argument(connection: Connection, row: Mapping[str, Any]) -> Event | Change:
    """What the function is called with: the change that it waited for, else the event. Raises UnknownJob."""
    if row["change_seq"] is not None:
        found = connection.execute(sa.select(changes).where(changes.c.seq == row["change_seq"])).mappings().first()
        if found is None:
            raise UnknownJob(f"change {row['change_seq']} is no longer kept; see retention.changes")
        return Change(**found)
    found = connection.execute(sa.select(events).where(events.c.id == row["event_id"])).mappings().first()
    if found is None:
        raise UnknownJob(f"event {row['event_id']} is no longer kept; see retention.events")
    kept = {name: found[name] for name in ("id", "type", "corp_id", "app", "occurred_at", "payload")}
    ids = {name: tuple(found[name]) for name in ("user_ids", "dept_ids", "role_ids")}
    return Event(**(kept | ids))
