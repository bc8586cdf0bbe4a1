"""Users' functions as RQ jobs: owed in the outbox, and enqueued in order."""

import contextlib
import importlib
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec
import redis
import sqlalchemy as sa

import workers
from bridge.accept import WAKE_LIMIT, WAKE_PREFIX
from bridge.config import Config
from bridge.queues import QUEUES_KEY, waiting_job
from workers.errors import JobsModuleMissing
from workers.registry import Registry
from workers.store.engine import Store
from workers.store.tables import changes, events, outbox

T = TypeVar("T")

#: The function that a user's job names; the worker runs what the outbox row says, and only if it is registered.
JOB_FUNCTION = "workers.jobs.run"
#: Version of the job's JSON.
VERSION = 1
#: Ids or lanes that one statement names: each is a parameter, and a stock SQLite takes 32766, PostgreSQL 65535.
CHUNK = 1000
#: What waits in given lanes, in its order, locked.
_OWED = (
    sa.select(outbox, events.c.type, events.c.corp_id, changes.c.entity, changes.c.operation)
    .outerjoin(events, events.c.id == outbox.c.event_id)
    .outerjoin(changes, changes.c.seq == outbox.c.change_seq)
    .where(outbox.c.lane.in_(sa.bindparam("lanes", expanding=True)), outbox.c.enqueued_at.is_(None))
    .order_by(outbox.c.id)
    .with_for_update(of=outbox)
)


def run(outbox_id: int, version: int) -> NoReturn:
    """What a user's job names. It needs the datastore and the registered functions."""
    raise RuntimeError("a user's job is for `dingbridge jobs`; a stock RQ worker cannot run it")


def load_registry(config: Config) -> Registry:
    """The functions of the configured modules, those of the working directory too.

    Raises JobsModuleMissing with every fault.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    faults: list[str] = []
    for name in config.jobs:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # a verb's result goes to the other
                importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever stands in the module
            said = f"{type(error).__name__}: {error}".partition("\n")[0]
            faults.append(f"jobs: the module {name} cannot be imported: {said}")
    if faults:
        raise JobsModuleMissing(faults)
    return workers.registry


class Dispatcher:
    """Enqueues what the outbox owes."""

    def __init__(self, store: Store, connection: redis.Redis) -> None:
        self._store = store
        self._connection = connection

    def dispatch(self, lanes: Collection[str]) -> int:
        """Enqueue what waits in these lanes, in its order; how many jobs.

        The rows are locked until the jobs are in Redis, so that no later change of an entity overtakes them.
        """
        return sum(self._dispatch(some) for some in chunks(sorted(lanes)))

    def _dispatch(self, lanes: Sequence[str]) -> int:
        with self._store.writing() as connection:
            rows = [dict(row) for row in connection.execute(_OWED, {"lanes": lanes}).mappings()]
            self._enqueue(rows)
            for ids in chunks([row["id"] for row in rows]):
                connection.execute(sa.update(outbox).where(outbox.c.id.in_(ids)).values(enqueued_at=datetime.now(UTC)))
        return len(rows)

    def _enqueue(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """As RQ does, but for many jobs at once."""
        waiting: dict[str, list[str]] = {}
        with self._connection.pipeline() as pipeline:
            for row in rows:
                fields = waiting_job(_call(row["id"]), _describe(row), row["queue"])
                pipeline.hset(f"rq:job:{job_id(row['id'])}", items=[part for pair in fields.items() for part in pair])
                waiting.setdefault(row["queue"], []).append(job_id(row["id"]))
            for queue, ids in waiting.items():
                pipeline.sadd(QUEUES_KEY, f"rq:queue:{queue}")
                pipeline.rpush(f"rq:queue:{queue}", *ids)
                pipeline.rpush(WAKE_PREFIX + queue, *["1"] * min(len(ids), WAKE_LIMIT))
                pipeline.ltrim(WAKE_PREFIX + queue, 0, WAKE_LIMIT - 1)
            pipeline.execute()


def job_id(outbox_id: int) -> str:
    """The RQ job of an outbox row: the same however often it is enqueued."""
    return f"outbox-{outbox_id}"


def _call(outbox_id: int) -> bytes:
    """The job's `data`, as RQ's JSON serializer writes a call: function, instance, args, kwargs."""
    return msgspec.json.encode([JOB_FUNCTION, None, [outbox_id, VERSION], {}])


def _describe(row: Mapping[str, Any]) -> str:
    """`my_company.onboarding.welcome user_add_org ding12ab…`, without personal data."""
    what = f"{row['entity']} {row['operation']}" if row["change_seq"] is not None else row["type"] or ""
    corp = row["corp_id"] or ""
    return " ".join(part for part in (row["function"], what, corp[:8] + "…" if len(corp) > 8 else corp) if part)


def give_up(store: Store, outbox_ids: Sequence[int]) -> None:
    """Note that these jobs failed for good: RQ's failed registry has them, and only a person starts them again."""
    for ids in chunks(outbox_ids):
        with store.writing() as connection:
            where = (outbox.c.id.in_(ids), outbox.c.failed_at.is_(None))
            connection.execute(sa.update(outbox).where(*where).values(failed_at=datetime.now(UTC)))


def chunks(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """These in their order, up to CHUNK at once."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))
