"""What the workers' tests share: entities, events, answers made by hand, and a desk to apply them at."""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis
import sqlalchemy as sa
from rq import Queue
from rq.job import Job
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer

from bridge.config import AppConfig, Config
from bridge.events import Entity, Event, Via
from tests.installation import CORP, settings
from workers import answers, shapes
from workers.errors import ApiError
from workers.fold import Folder, Outcome, Waiting
from workers.jobs import Dispatcher
from workers.jobworker import JobWorker
from workers.moment import Moment, RedisClock
from workers.readers import Answer
from workers.refresh import Noted, Refresher
from workers.registry import Registry
from workers.store import ledger, reads, tables
from workers.store.draft import Cause, Draft
from workers.store.engine import Store
from workers.store.reads import Due, Priority, Taken
from workers.suiteapi import Suite
from workers.suites import Suites

_numbers = itertools.count(1)


def user(userid: str, corp: str = CORP) -> Entity:
    return Entity(corp, "user", userid)


def department(dept_id: int, corp: str = CORP) -> Entity:
    return Entity(corp, "department", str(dept_id))


def roles(corp: str = CORP) -> Entity:
    return Entity(corp, "roles", "")


def a_user(
    userid: str = "u1", departments: Mapping[int, int | None] | None = None, roles: Sequence[int] = (), **given: Any
) -> shapes.User:
    """DingTalk's answer for a user; `departments` maps ids to the user's order there, `given` are its raw fields."""
    body = {
        "userid": userid,
        "name": f"Name of {userid}",
        "dept_id_list": list(departments or {}),
        "dept_order_list": [{"dept_id": dept, "order": order} for dept, order in (departments or {}).items()],
        "role_list": [{"id": role, "name": f"Role {role}", "group_name": "G"} for role in roles],
    }
    return answers.read_user({"errcode": 0, "result": body | given})


def a_department(dept_id: int, parent_id: int | None = 1, **given: Any) -> shapes.Department:
    """DingTalk's answer for a department."""
    body = {"dept_id": dept_id, "parent_id": parent_id, "name": f"Department {dept_id}", "order": 1}
    return answers.read_department({"errcode": 0, "result": body | given})


def a_role_list(groups: Mapping[int, Mapping[int, str]]) -> list[shapes.RoleGroup]:
    """DingTalk's answer for the role list: group ids with their roles' names."""
    items = [
        {"groupId": group, "name": f"Group {group}", "roles": [{"id": role, "name": name} for role, name in of.items()]}
        for group, of in groups.items()
    ]
    page = answers.read_role_groups({"errcode": 0, "result": {"hasMore": False, "list": items}}, 0, 200)
    return page.items


def an_event(
    type: str = "user_modify_org",
    users: Sequence[str] = (),
    departments: Sequence[int] = (),
    roles: Sequence[int] = (),
    event_id: str | None = None,
    corp: str | None = CORP,
    via: Via = "http",
    app: str = "acme",
    **given: Any,
) -> Event:
    """An event as `accept` takes it."""
    fields: dict[str, Any] = {
        "id": event_id or f"event-{next(_numbers)}",
        "type": type,
        "app": app,
        "corp_id": corp,
        "via": via,
        "occurred_at": 1_700_000_000_000,
        "user_ids": tuple(users),
        "dept_ids": tuple(departments),
        "role_ids": tuple(roles),
        "payload": msgspec.Raw(b'{"EventType":"%s"}' % type.encode()),
    }
    return Event(**(fields | given))


def nobodys_suites(config: Config, store: Store, clock: RedisClock) -> Suites:
    """Of a configuration that has no suite."""

    def connect(app: AppConfig) -> Suite:
        raise AssertionError(app)

    return Suites(config, store, clock, connect)


@dataclass
class Script:
    """Stands in for Readers: what DingTalk answers, set by hand, and what it was asked."""

    answers: dict[Entity, Answer | ApiError] = field(default_factory=dict)
    asked: list[Entity] = field(default_factory=list)
    #: Runs once, after DingTalk was asked and before its answer is written.
    meanwhile: Callable[[], object] | None = None
    #: Whether any app has credentials.
    able: bool = True

    def clients(self, corp_ids: Collection[str]) -> dict[str, object]:
        return dict.fromkeys(corp_ids, self) if self.able else {}

    def read(self, wanted: Mapping[Entity, bool]) -> tuple[dict[Entity, Answer], dict[Entity, ApiError]]:
        self.asked += wanted
        given = {entity: self.answers[entity] for entity in wanted}
        then, self.meanwhile = self.meanwhile, None
        if then is not None:
            then()
        errors = {entity: answer for entity, answer in given.items() if isinstance(answer, ApiError)}
        return {e: answer for e, answer in given.items() if not isinstance(answer, ApiError)}, errors


@dataclass
class Desk:
    """A datastore, a Redis' clock and a scripted DingTalk, with the folder that brings them together."""

    store: Store
    clock: RedisClock
    script: Script = field(default_factory=Script)
    registry: Registry = field(default_factory=Registry)
    settle_seconds: float = 60.0
    at_once: int | None = None

    @property
    def refresher(self) -> Refresher:
        return Refresher(self.store, self.clock, self.script)  # type: ignore[arg-type]

    @property
    def folder(self) -> Folder:
        suites = nobodys_suites(Config.model_validate(settings()), self.store, self.clock)
        return Folder(self.refresher, self.registry, suites, self.settle_seconds, self.at_once)

    def write(
        self,
        given: Mapping[Entity, Answer],
        noted: Noted | None = None,
        event_id: str | None = None,
        quiet: bool = False,
    ) -> Draft:
        """Write these answers on that note, or on one taken now; their changes are logged."""
        noted = noted or self.refresher.note(given)

        def conclude(draft: Draft, _written: set[Entity]) -> Draft:
            ledger.log_changes(draft.tx, draft.changes, draft.at)
            return draft

        return self.refresher.write(noted, given, dict.fromkeys(given, Cause(event_id, quiet)), conclude)[1]

    def apply(self, *happened: Event, accepted: Moment | None = None, taken: Sequence[Taken] = ()) -> Outcome:
        """Fold these events and reads as one batch; they were accepted just now unless said otherwise."""
        moment = accepted or self.clock.now()
        return self.folder.apply([Waiting(event, moment) for event in happened], taken)

    def take(self, priority: Priority = Priority.COPY) -> list[Taken]:
        """The reads that are due."""
        with self.store.writing() as connection:
            return reads.take(connection, self.clock.now().micros, 1000, priority)

    def rows(self, table: sa.Table, **where: Any) -> list[dict[str, Any]]:
        """The rows of a table that have these values, in the order of its key."""
        conditions = [table.c[name] == value for name, value in where.items()]
        query = sa.select(table).where(*conditions).order_by(*table.primary_key.columns)
        with self.store.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def row(self, table: sa.Table, **where: Any) -> dict[str, Any]:
        """The one row that has these values."""
        (found,) = self.rows(table, **where)
        return found

    def user(self, userid: str = "u1") -> dict[str, Any]:
        return self.row(tables.users, userid=userid)

    def statuses(self) -> dict[str, str]:
        """The final status of every event."""
        return {row["id"]: row["status"] for row in self.rows(tables.events)}

    def changes(self, entity: str | None = None) -> list[tuple[str, str, str]]:
        """Entity, id and operation of every change, in order."""
        where = {} if entity is None else {"entity": entity}
        return [(row["entity"], row["entity_id"], row["operation"]) for row in self.rows(tables.changes, **where)]


@contextmanager
def few_parameters(desk: Desk, most: int) -> Iterator[None]:
    """As if the datastore took no statement with more of them."""

    def count(_c: object, _u: object, statement: str, parameters: Sized, *_: object) -> None:
        if len(parameters) > most:
            raise sa.exc.OperationalError(statement, None, Exception("too many parameters"))

    sa.event.listen(desk.store.engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        sa.event.remove(desk.store.engine, "before_cursor_execute", count)


@dataclass
class Shop:
    """A desk whose users' jobs are enqueued and run in this process."""

    desk: Desk
    connection: redis.Redis
    #: What `keep` was called with.
    called: list[Any] = field(default_factory=list)

    @property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.desk.store, self.connection)

    def worker(self) -> JobWorker:
        return JobWorker(["jobs"], self.connection, self.desk.store, self.desk.registry)

    def keep(self, argument: Any, directory: Any) -> None:
        """A user's function."""
        self.called.append(argument)

    def happen(self, *happened: Event, given: Mapping[Entity, Answer] | None = None) -> None:
        """Apply these events, with these answers, and enqueue what they owe."""
        self.desk.script.answers |= given or {}
        self.dispatcher.dispatch(self.desk.apply(*happened).lanes)

    def work(self) -> None:
        """Run jobs until none waits."""
        worker = self.worker()
        while worker.turn():
            pass

    def queue(self, name: str = "jobs") -> Queue:
        return Queue(name, connection=self.connection, serializer=JSONSerializer)

    def job(self, job_id: str) -> Job:
        return Job.fetch(job_id, connection=self.connection, serializer=JSONSerializer)

    def reason(self, job_id: str) -> str:
        """Why a job failed."""
        result = self.job(job_id).latest_result()
        return "" if result is None else str(result.exc_string)

    def owed(self) -> list[dict[str, Any]]:
        return self.desk.rows(tables.outbox)

    def due_now(self) -> None:
        """What was put off need not wait."""
        for job_id in ScheduledJobRegistry(queue=self.queue()).get_job_ids():
            self.connection.zadd("rq:scheduled:jobs", {job_id: 1}, xx=True)


def chain_breaks(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Where a change does not begin as the one before it ended, for each entity; rows of `changes`."""
    last: dict[tuple[str, str, str], Any] = {}
    for row in sorted(rows, key=lambda row: row["seq"]):
        key = (row["corp_id"], row["entity"], row["entity_id"])
        known = last.get(key)
        if _data(row["before"]) != _data(known):
            yield f"seq {row['seq']} {key}: ended as {known}, begins as {row['before']}"
        last[key] = row["after"]


def _data(state: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Without what tells of the read alone: it may change without a change."""
    return None if state is None else {k: v for k, v in state.items() if k not in ("fetched_at", "raw", "pushed_at")}


def knows(desk: Desk, answers: dict[Entity, Answer | ApiError]) -> None:
    """From now on DingTalk answers so."""
    desk.script.answers |= answers


def schedule(desk: Desk, *wanted: Due) -> None:
    with desk.store.writing() as connection:
        reads.schedule(connection, wanted)


def taken(desk: Desk, entity: Entity, priority: Priority = Priority.EVENT, event_id: str | None = None) -> list[Taken]:
    """A read of this entity that is due, as a worker takes it."""
    schedule(desk, Due(entity, desk.clock.now().micros, "some", event_id, priority))
    return desk.take()


def settle(desk: Desk) -> None:
    """Time passes until every echo is due."""
    with desk.store.writing() as connection:
        connection.execute(sa.update(tables.reads).values(due_at=desk.clock.now().micros))
