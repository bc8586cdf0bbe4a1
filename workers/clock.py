"""Scheduled upkeep, one leader: jobs that the outbox owes and Redis no longer has, rows past their time, and what else
is given to it."""

import threading
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import redis
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from bridge.config import RetentionConfig
from bridge.queues import FAILURE_TTL
from workers.jobs import Dispatcher, chunks, give_up, job_id
from workers.store import failed_lists
from workers.store.engine import Store
from workers.store.tables import changes, events, finished_jobs, outbox

#: String with expiry: who leads. Another takes over this many seconds after the leader's death.
LEADER_KEY = "bridge:clock:leader"
LEADER_SECONDS = 30
#: Seconds between two rounds.
ROUND_SECONDS = 10.0
#: Seconds that a committed job may take to reach Redis before it counts as owed.
GRACE_SECONDS = 15
#: Rows that one statement deletes.
PRUNE_ROWS = 5000

log = structlog.get_logger()

_LEAD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""


class Clock:
    """Rounds of upkeep; safe to run several, one leads."""

    def __init__(
        self,
        connection: redis.Redis,
        store: Store,
        dispatcher: Dispatcher,
        retention: RetentionConfig,
        *tasks: Callable[[], None],
    ) -> None:
        """Each of `tasks` is called in every round; one that raises RedisError or DBAPIError holds up no other."""
        self._name = uuid.uuid4().hex
        self._connection = connection
        self._lead = connection.register_script(_LEAD)
        self._store = store
        self._dispatcher = dispatcher
        self._retention = retention
        self._tasks = tasks

    def run(self, stopping: threading.Event) -> None:
        """Until told to stop."""
        while not stopping.is_set():
            begun = time.monotonic()
            try:
                if self._lead(keys=[LEADER_KEY], args=[self._name, LEADER_SECONDS]):
                    self.round()
            except (redis.RedisError, DBAPIError) as error:
                log.warning("upkeep waits", reason=type(error).__name__)
            stopping.wait(max(0.0, ROUND_SECONDS - (time.monotonic() - begun)))

    def round(self) -> None:
        """One round of everything that is due; what fails holds up nothing else."""
        for task in (self._sweep, self._prune, *self._tasks):
            try:
                task()
            except (redis.RedisError, DBAPIError) as error:
                log.warning("upkeep waits", task=task.__qualname__, reason=type(error).__name__)

    def _sweep(self) -> None:
        if count := self.sweep_outbox():
            log.info("enqueued what was owed", jobs=count)

    def _prune(self) -> None:
        if count := self.prune():
            log.info("forgot what is past its time", rows=count)

    def sweep_outbox(self) -> int:
        """Enqueue again the jobs whose rows stand though Redis has them no longer; how many."""
        before = datetime.now(UTC) - timedelta(seconds=GRACE_SECONDS)
        overdue = sa.or_(outbox.c.enqueued_at.is_(None), outbox.c.enqueued_at < before)
        with self._store.reading() as connection:
            query = sa.select(outbox.c.id, outbox.c.lane).where(overdue, outbox.c.failed_at.is_(None))
            rows = connection.execute(query).all()
        with self._connection.pipeline(transaction=False) as pipeline:
            for row in rows:
                pipeline.hget(f"rq:job:{job_id(row.id)}", "status")
            states = pipeline.execute()
        lost = [row for row, state in zip(rows, states, strict=True) if state is None]
        if failed := [row.id for row, state in zip(rows, states, strict=True) if state == b"failed"]:
            give_up(self._store, failed)  # killed in its last attempt
        for ids in chunks([row.id for row in lost]):
            with self._store.writing() as connection:
                connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids)).values(enqueued_at=None))
        return self._dispatcher.dispatch({row.lane for row in lost})

    def prune(self) -> int:
        """Delete what is past its retention, but nothing that a job is owed for, nor a failed list not taken yet."""
        expired = outbox.c.failed_at < datetime.now(UTC) - timedelta(seconds=FAILURE_TTL)
        with self._store.writing() as connection:
            count = connection.execute(sa.delete(outbox).where(expired)).rowcount
        for table, key, column, owed, days in (
            (events, events.c.id, events.c.received_at, outbox.c.event_id, self._retention.events),
            (finished_jobs, finished_jobs.c.id, finished_jobs.c.finished_at, outbox.c.id, self._retention.events),
            (changes, changes.c.seq, changes.c.changed_at, outbox.c.change_seq, self._retention.changes),
        ):
            if not days:
                continue
            before = datetime.now(UTC) - timedelta(days=days)
            wanted = sa.select(owed).where(owed.is_not(None))
            stale = sa.select(key).where(column < before, key.not_in(wanted)).limit(PRUNE_ROWS)
            with self._store.writing() as connection:
                count += connection.execute(sa.delete(table).where(key.in_(stale))).rowcount
        if self._retention.events:
            before = datetime.now(UTC) - timedelta(days=self._retention.events)
            with self._store.writing() as connection:
                count += failed_lists.prune(connection, before)
        return count
