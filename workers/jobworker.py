"""The RQ worker that runs users' functions: those that are registered, and nothing else that a job may name."""

import random
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import redis
import sqlalchemy as sa
import structlog
from rq.timeouts import JobTimeoutException, UnixSignalDeathPenalty
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from bridge.queues import JOB_TIMEOUT
from workers.claimer import Claimer
from workers.claims import MAX_LONE_DEATHS, Claim
from workers.directory import Change, Event, StoreDirectory
from workers.errors import UnknownJob
from workers.jobs import JOB_FUNCTION, VERSION
from workers.registry import Registry, UserJob
from workers.store import ledger
from workers.store.engine import Store
from workers.store.tables import changes, events, outbox

#: Seconds between two attempts, the last for all further ones; each with up to 25 % more.
RETRY_SECONDS = (5, 30, 120, 600, 1800)
#: Jobs that are taken at once, at most: they share a commit, and after a kill they may run again.
BATCH = 32
#: Seconds that the lease waits for a datastore that is told of what was done.
TELL_SECONDS = 1.0
#: Seconds that what is taken at once should last: meanwhile no other worker can take it.
BATCH_SECONDS = 0.1

log = structlog.get_logger()


class _Owed(NamedTuple):
    """A job that was taken: the function that its outbox row names, and what that is called with."""

    claim: Claim
    outbox_id: int
    function: str
    argument: Event | Change


class JobWorker(Claimer):
    """Runs users' jobs one after another. A function that hangs is interrupted after JOB_TIMEOUT."""

    def __init__(self, names: Sequence[str], connection: redis.Redis, store: Store, registry: Registry) -> None:
        super().__init__(names, connection)
        self._store = store
        self._registry = registry
        #: Jobs to take next time, by the pace of the last.
        self._limit = 1
        #: Jobs that were taken and are not begun, and those that were run and are not noted as done.
        self._waiting: deque[_Owed] = deque()
        self._done: list[_Owed] = []
        #: Held by whoever tells the stores of them, as `tick` does so beside a turn.
        self._telling = threading.Lock()

    def turn(self) -> bool:
        """As many jobs as should take BATCH_SECONDS."""
        self._waiting.clear()  # left by a turn that a store broke off; `upkeep` gives it back
        self._note_done()
        self.upkeep()
        claims, self.put_off_due = self.claims.claim(self._limit)
        begun = time.monotonic()
        self._waiting.extend(self._load(claims))
        while not self.stopping.is_set() and (owed := self._next()):
            self._do(owed)
        self._note_done()
        pace = len(claims) / (time.monotonic() - begun)
        self._limit = max(1, min(BATCH, round(pace * BATCH_SECONDS)))
        return bool(claims)

    def tick(self) -> None:
        """Beside a function that takes long, what waits behind it goes to others, and what was done is noted."""
        super().tick()
        if self._waiting or self._done:
            # A datastore that hangs must not hold up the lease.
            telling = threading.Thread(target=self._tell, name="telling", daemon=True)
            telling.start()
            telling.join(TELL_SECONDS)

    def _tell(self) -> None:
        if not self._telling.acquire(blocking=False):
            return  # the turn is at it
        try:
            while (owed := self._last()) is not None:
                self.claims.hand_back(owed.claim)
            self._tell_done()
        except (redis.RedisError, DBAPIError) as error:
            log.warning("could not tell what was done", reason=type(error).__name__)
        finally:
            self._telling.release()

    def _load(self, claims: Sequence[Claim]) -> Iterable[_Owed]:
        """What these jobs are called with; those that nothing is called for are told at once."""
        wanted: list[tuple[Claim, int]] = []
        for claim in claims:
            try:
                wanted.append((claim, _read(claim)))
            except UnknownJob as error:
                self.fail(claim, str(error))
        with self._store.reading() as connection:
            query = sa.select(outbox).where(outbox.c.id.in_({outbox_id for _, outbox_id in wanted}))
            rows = {row["id"]: row for row in map(dict, connection.execute(query).mappings())}
            arguments = _arguments(connection, list(rows.values()))
        for claim, outbox_id in wanted:
            if (row := rows.get(outbox_id)) is None:
                self.claims.finish([claim])  # it was done before; this is its second coming
            elif (argument := arguments.get(outbox_id)) is None:
                self.fail(claim, _forgotten(row))
            else:
                yield _Owed(claim, outbox_id, row["function"], argument)

    def _next(self) -> _Owed | None:
        try:
            return self._waiting.popleft()
        except IndexError:  # also where `tick` was quicker
            return None

    def _last(self) -> _Owed | None:
        try:
            return self._waiting.pop()
        except IndexError:
            return None

    def _do(self, owed: _Owed) -> None:
        job = self._registry.find(owed.function)
        if job is None:
            self._give_up(owed, f"no module of `jobs:` in config.yaml registers {owed.function}")
        elif owed.claim.lone_deaths >= MAX_LONE_DEATHS:
            self._give_up(owed, f"it ended {owed.claim.lone_deaths} workers")
        else:
            self._call(owed, job)

    def _call(self, owed: _Owed, job: UserJob) -> None:
        claim, argument = owed.claim, owed.argument
        directory = StoreDirectory(self._store, argument.corp_id)
        try:
            with UnixSignalDeathPenalty(  # type: ignore[no-untyped-call]
                JOB_TIMEOUT, JobTimeoutException, job_id=claim.job_id
            ):
                job.function(argument, directory)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever else it is, it is the function's; an attempt
            if isinstance(error, SystemExit) and self.stopping.is_set():
                return  # RQ's, who was told twice to stop; `run` ends now and gives the job back
            attempts = claim.attempts + 1
            if attempts > job.retries:
                self._give_up(owed, traceback.format_exc(), type(error).__name__)
                return
            seconds = RETRY_SECONDS[min(attempts, len(RETRY_SECONDS)) - 1] * random.uniform(1.0, 1.25)  # noqa: S311
            # No more than its kind: what a user's function says may be people's data.
            log.warning(
                "will try again", job=claim.job_id, function=job.name, attempt=attempts, reason=type(error).__name__
            )
            self.claims.put_off(claim, seconds, attempts)
            return
        self._done.append(owed)

    def _note_done(self) -> None:
        """The rows first: should we die before Redis knows, their second coming finds nothing to do."""
        with self._telling:
            self._tell_done()

    def _tell_done(self) -> None:
        done = list(self._done)
        if not done:
            return
        with self._store.writing() as connection:
            ledger.finish_jobs(connection, [owed.outbox_id for owed in done], datetime.now(UTC))
        self.claims.finish([owed.claim for owed in done])
        del self._done[: len(done)]

    def _give_up(self, owed: _Owed, reason: str, told: str | None = None) -> None:
        """Only a person starts it again, from RQ's failed registry."""
        with self._store.writing() as connection:
            failed = sa.update(outbox).where(outbox.c.id == owed.outbox_id).values(failed_at=datetime.now(UTC))
            connection.execute(failed)
        self.fail(owed.claim, reason, told)


def _read(claim: Claim) -> int:
    """The outbox row that a job is for. Raises UnknownJob for a job of any other kind: nothing it names is called."""
    try:
        function, _, arguments, _ = msgspec.json.decode(claim.plain(), type=tuple[str, Any, list[Any], dict[str, Any]])
    except ValueError as error:
        raise UnknownJob(f"no user's job: {error}") from None
    if function != JOB_FUNCTION or len(arguments) != 2 or arguments[1] != VERSION or not isinstance(arguments[0], int):
        raise UnknownJob(f"the job names {function[:80]}, which is no user's job of version {VERSION}")
    return arguments[0]


def _arguments(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> dict[int, Event | Change]:
    """What the functions of these rows are called with, where it is kept: a change, else the event."""
    seqs = {row["change_seq"] for row in rows if row["change_seq"] is not None}
    ids = {row["event_id"] for row in rows if row["change_seq"] is None}
    found: dict[Any, Event | Change] = {}
    if seqs:
        query = sa.select(changes).where(changes.c.seq.in_(seqs))
        found |= {row["seq"]: Change(**row) for row in connection.execute(query).mappings()}
    if ids:
        query = sa.select(events).where(events.c.id.in_(ids))
        found |= {row["id"]: _event(row) for row in map(dict, connection.execute(query).mappings())}
    keys = {row["id"]: row["event_id"] if row["change_seq"] is None else row["change_seq"] for row in rows}
    return {outbox_id: found[key] for outbox_id, key in keys.items() if key in found}


def _event(row: Mapping[str, Any]) -> Event:
    kept = {name: row[name] for name in ("id", "type", "corp_id", "app", "occurred_at", "payload")}
    ids = {name: tuple(row[name]) for name in ("user_ids", "dept_ids", "role_ids")}
    return Event(**(kept | ids))


def _forgotten(row: Mapping[str, Any]) -> str:
    if row["change_seq"] is not None:
        return f"change {row['change_seq']} is no longer kept; see retention.changes"
    return f"event {row['event_id']} is no longer kept; see retention.events"
