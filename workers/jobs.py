"""Users' functions as RQ jobs: owed in the outbox, enqueued in order, run by a worker that calls nothing else."""

import importlib
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, NoReturn

import redis
import sqlalchemy as sa
from rq import Queue, Retry, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy.engine import Connection

import workers
from bridge.config import Config
from workers.directory import Change, Directory, Event, StoreDirectory
from workers.errors import JobsModuleMissing, UnknownJob
from workers.registry import Registry, UserJob
from workers.store.engine import Store, open_store
from workers.store.tables import changes, events, outbox

#: The function that a user's job names; the worker runs what the outbox row says, and only if it is registered.
JOB_FUNCTION = "workers.jobs.run"
#: Version of the job's JSON.
VERSION = 1
#: Seconds that a user's function may run.
JOB_TIMEOUT = 600
#: Seconds that a finished job stays to be seen in rq-dashboard, and a failed one.
RESULT_TTL = 3600
FAILURE_TTL = 30 * 86400
#: Seconds between two attempts, the last for all further ones.
RETRY_SECONDS = (5, 30, 120, 600, 1800)
#: Seconds until RQ believes a silent worker dead; short, so that its job runs again soon.
WORKER_TTL = 30


def run(outbox_id: int, version: int) -> NoReturn:
    """What a user's job names. It needs the datastore and the registered functions."""
    raise RuntimeError("a user's job is for `dingbridge jobs`; a stock RQ worker cannot run it")


def load_registry(config: Config) -> Registry:
    """The functions of the configured modules. Raises JobsModuleMissing."""
    for name in config.jobs:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise JobsModuleMissing(f"jobs: the module {name} cannot be imported: {error}") from error
    return workers.registry


class Dispatcher:
    """Enqueues what the outbox owes."""

    def __init__(self, store: Store, connection: redis.Redis, registry: Registry) -> None:
        self._store = store
        self._connection = connection
        self._registry = registry

    def dispatch(self, lanes: Collection[str]) -> int:
        """Enqueue what waits in these lanes, in its order; how many jobs.

        The rows are locked until the jobs are in Redis, so that no later change of an entity overtakes them.
        """
        if not lanes:
            return 0
        query = (
            sa.select(outbox, events.c.type, events.c.corp_id, changes.c.entity, changes.c.operation)
            .outerjoin(events, events.c.id == outbox.c.event_id)
            .outerjoin(changes, changes.c.seq == outbox.c.change_seq)
            .where(outbox.c.lane.in_(sorted(lanes)), outbox.c.enqueued_at.is_(None))
            .order_by(outbox.c.id)
            .with_for_update(of=outbox)
        )
        with self._store.writing() as connection:
            rows = [dict(row) for row in connection.execute(query).mappings()]
            self._enqueue(rows)
            ids = [row["id"] for row in rows]
            connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids)).values(enqueued_at=datetime.now(UTC)))
        return len(rows)

    def _enqueue(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with self._connection.pipeline() as pipeline:
            for row in rows:
                job = self._registry.find(row["function"])
                Queue(row["queue"], connection=self._connection, serializer=JSONSerializer).enqueue_call(
                    JOB_FUNCTION,
                    args=(row["id"], VERSION),
                    timeout=JOB_TIMEOUT,
                    result_ttl=RESULT_TTL,
                    failure_ttl=FAILURE_TTL,
                    description=_describe(row),
                    job_id=job_id(row["id"]),
                    retry=_retry(job),
                    pipeline=pipeline,
                )
            pipeline.execute()


def job_id(outbox_id: int) -> str:
    """The RQ job of an outbox row: the same however often it is enqueued."""
    return f"outbox-{outbox_id}"


def _retry(job: UserJob | None) -> Retry | None:
    retries = job.retries if job else 0
    return Retry(max=retries, interval=list(RETRY_SECONDS)) if retries else None


def _describe(row: Mapping[str, Any]) -> str:
    """`my_company.onboarding.welcome user_add_org ding12ab…`, without personal data."""
    what = f"{row['entity']} {row['operation']}" if row["change_seq"] is not None else row["type"] or ""
    corp = row["corp_id"] or ""
    return " ".join(part for part in (row["function"], what, corp[:8] + "…" if len(corp) > 8 else corp) if part)


class OutboxJob(Job):
    """A job that runs an outbox row's function: never what its own hash names, and no callback."""

    registry: ClassVar[Registry]
    datastore: ClassVar[str]

    success_callback = failure_callback = stopped_callback = None

    def _execute(self) -> None:
        """Raises UnknownJob for a job of another kind; else what the function raises, which RQ tries again."""
        if self.func_name != JOB_FUNCTION or len(self.args) != 2 or self.args[1] != VERSION:
            raise UnknownJob(f"the job names {str(self.func_name)[:80]}, which is no user's job of version {VERSION}")
        outbox_id = self.args[0]
        store = open_store(self.datastore, pool_size=1)
        try:
            with store.reading() as connection:
                row = connection.execute(sa.select(outbox).where(outbox.c.id == outbox_id)).mappings().first()
                if row is None:
                    return  # it was done before; this is its second coming
                argument = _argument(connection, dict(row))
            try:
                self._call(row["function"], argument, StoreDirectory(store, argument.corp_id))
            except BaseException:
                if not self.retries_left:
                    give_up(store, [outbox_id])
                raise
            _forget(store, outbox_id)
        finally:
            store.close()

    def _call(self, name: str, argument: Event | Change, directory: Directory) -> None:
        job = self.registry.find(name)
        if job is None:
            raise UnknownJob(f"no module of `jobs:` in config.yaml registers {name}")
        job.function(argument, directory)


def make_worker(queues: Sequence[str], connection: redis.Redis, registry: Registry, datastore: str) -> Worker:
    """An RQ worker for users' jobs; on one queue it takes a job so that a kill loses nothing (measured on RQ 3)."""
    job_class = type("OutboxJob", (OutboxJob,), {"registry": registry, "datastore": datastore})
    return Worker(
        list(queues),
        connection=connection,
        serializer=JSONSerializer,
        job_class=job_class,
        worker_ttl=WORKER_TTL,
        maintenance_interval=10,
        job_monitoring_interval=5,
    )


def _argument(connection: Connection, row: Mapping[str, Any]) -> Event | Change:
    """What the function is called with: the change that it waited for, else the event."""
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


def give_up(store: Store, outbox_ids: Sequence[int]) -> None:
    """Note that these jobs failed for good: RQ's failed registry has them, and only a person starts them again."""
    with store.writing() as connection:
        where = (outbox.c.id.in_(outbox_ids), outbox.c.failed_at.is_(None))
        connection.execute(sa.update(outbox).where(*where).values(failed_at=datetime.now(UTC)))


def _forget(store: Store, outbox_id: int) -> None:
    with store.writing() as connection:
        connection.execute(sa.delete(outbox).where(outbox.c.id == outbox_id))
