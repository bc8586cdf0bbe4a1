"""An installation without processes: workers and a copy as actors over a real Redis and a real datastore."""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import redis
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from bridge.accept import Acceptor
from bridge.config import Config, HealConfig
from bridge.events import CONTACT_EVENTS, Entity
from ops.simulation import sim_app
from simulator.changes import Changes
from simulator.world import World
from tests.convergence.actors import Actor, pause
from tests.convergence.dingtalk import Client
from tests.convergence.organisation import organisation
from tests.convergence.times import Times
from tests.installation import CORP, settings
from tests.truth import actual_tables, differing, expected_tables
from tests.workers.helpers import nobodys_suites
from workers.batch import BatchWorker
from workers.claimer import away
from workers.claims import MISSING_SECONDS, Claims
from workers.comparison import Comparison
from workers.copy import Copy
from workers.dingtalk import DingTalk
from workers.errors import ApiError
from workers.fold import Folder
from workers.jobs import Dispatcher
from workers.moment import SECOND, Moment, RedisClock
from workers.readers import Answer, Asked, Readers
from workers.refresh import Noted, Refresher
from workers.registry import Registry
from workers.store import reads, tables
from workers.store.engine import Store

WORKERS = ("a", "b")
#: Seconds after which answers have settled: more than the most stale answer and all steps of Redis' clock, together.
SETTLE_SECONDS = 10
#: Rounds of all actors after which what is left never ends.
MANY = 2000
#: What a call of Redis or of the datastore may end with; whether it was done is unknown.
REDIS_AWAY = redis.ConnectionError("away")
DATASTORE_AWAY = OperationalError("", None, sqlite3.OperationalError("away"))

Facts = tuple[Any, ...]


class House:
    """One installation that begins anew for each example; its first copy has been made."""

    def __init__(self, store: Store, connection: redis.Redis, times: Times) -> None:
        self.store = store
        self.connection = connection
        self.times = times
        self._config = Config.model_validate(settings())
        self.world = World([sim_app(app, "") for app in self._config.apps], users=1, seed=1)
        self.client = Client(self.world)
        self.acceptor = Acceptor(connection)
        self._clock = RedisClock(connection)
        readers = _Readers(self._config, lambda _app, _corp: self.client, 1, lambda _corps: {})  # type: ignore[arg-type,return-value]
        self._refresher = _Refresher(store, _Clock(connection), readers)
        self._folder = Folder(
            self._refresher, Registry(), nobodys_suites(self._config, store, self._clock), SETTLE_SECONDS
        )
        dispatcher = Dispatcher(store, connection)
        # One process begins again and again: an RQ worker takes long to make.
        self._workers = {
            name: BatchWorker(tuple(CONTACT_EVENTS), connection, store, self._folder, dispatcher) for name in WORKERS
        }
        self.actors: dict[str, Actor] = {}
        self._again: list[str] = []
        self.begin("")
        self.repair()
        assert self.differences() == []
        self._keep()

    def begin(self, seed: str) -> None:
        """As after the first copy; the seed is that of changes to come."""
        self.end()
        self.connection.flushall()
        self.times.begin()
        self.tenant = self.world.tenants[CORP] = organisation(CORP)
        self.client.lags.clear()
        self.client.faults.clear()
        self.changes = Changes(self.tenant, seed)
        with self.store.writing() as sql:
            for statement in self._again:
                sql.exec_driver_sql(statement)
        self.actors = {}
        self._hired = 0
        for name in WORKERS:
            self.hire(name)

    def end(self) -> None:
        for actor in self.actors.values():
            actor.kill()

    def hire(self, name: str) -> None:
        """A worker begins, in place of its predecessor."""
        worker = self._workers[name]
        self._hired += 1
        worker.claims = Claims(self.connection, f"{name}{self._hired}", tuple(CONTACT_EVENTS))
        worker.claims.wait = lambda seconds: None  # type: ignore[method-assign]
        worker.put_off_due, worker._next_due = None, 0

        def turn() -> bool:
            """As in `Claimer.run`: what is away is tried again."""
            try:
                busy = worker.turn()
                if not busy:
                    worker.wait()
            except (redis.RedisError, DBAPIError) as error:
                if not away(error):
                    raise
                return True
            return busy

        self.actors[name] = Actor(name, turn)

    def start_copy(self) -> None:
        """A full copy begins beside the workers, or goes on where another was broken off."""
        self._start("copy", Copy(self.store, self._clock, self._folder, self._client, CORP).run())

    def start_comparison(self) -> None:
        """A comparison that mends begins, beside the workers."""
        self._start("comparison", self._comparison().run())

    def _start(self, name: str, steps: Iterator[object]) -> None:
        def turn() -> bool:
            nonlocal steps
            try:
                return next(steps, None) is not None
            except (ApiError, redis.RedisError, DBAPIError):
                steps = iter(())
                return False

        self.actors[name] = Actor(name, turn)

    def kill(self, name: str) -> None:
        """As kill -9, and its lease runs out."""
        self.actors[name].kill()
        self.lapse(name)

    def take_back(self) -> None:
        """A worker finds that the leases of others have run out."""
        claims = Claims(self.connection, "sweeper", ())
        claims.sweep()
        self.times.pass_by((MISSING_SECONDS + 1) * SECOND)
        claims.sweep()

    def lapse(self, name: str) -> None:
        """Its lease runs out, though it may live on."""
        for key in self.connection.scan_iter(f"bridge:lease:{name}*"):
            self.connection.delete(key)

    def differences(self) -> list[str]:
        return differing(self.world.truth("acme"), self.store)

    def known(self) -> list[Entity]:
        """What the datastore has living rows of."""
        found = actual_tables(self.store, CORP)
        users = [Entity(CORP, "user", userid) for userid in found["users"]]
        departments = [Entity(CORP, "department", str(dept_id)) for dept_id in {*found["departments"], 1}]
        return [*users, *departments, Entity(CORP, "roles", "")]

    @property
    def commits(self) -> int:
        """Transactions of rows so far."""
        return self._refresher.commits

    def final(self) -> dict[str, str]:
        """The events that have their final row, with their status."""
        with self.store.reading() as sql:
            return {row.id: row.status for row in sql.execute(sa.select(tables.events.c.id, tables.events.c.status))}

    def facts(self) -> dict[str, dict[Any, Any]]:
        return expected_tables(self.world.truth("acme"))

    def here(self) -> dict[str, dict[Any, Any]]:
        return actual_tables(self.store, CORP)

    def work_off(self, *names: str) -> None:
        """Let these end their turn, and one of them work, while time passes, until nothing is left that it could do."""
        for name in names:
            self.actors[name].turn()
        first, *others = names
        beside = [self.actors[name] for name in others if name not in WORKERS]
        for _ in range(MANY):
            busy = [actor.turn() for actor in (self.actors[first], *beside)]
            if not any(busy) and not self._wait(names):
                return
        raise AssertionError(f"never done: {self._left()}")

    def repair(self) -> None:
        """What makes up for lost events: a comparison whose removals somebody allows."""
        for _ in self._comparison(allow_removals=True, allow_scope=True).run():
            pass
        self.work_off(*self.actors)

    @property
    def _client(self) -> DingTalk:
        return self.client  # type: ignore[return-value]

    def _comparison(self, **overrides: bool) -> Comparison:
        return Comparison(self.store, self._clock, self._client, CORP, HealConfig(), **overrides)

    def _wait(self, names: tuple[str, ...]) -> bool:
        """Let time pass until the next thing comes due; False where nothing will."""
        now = self.times.present + self.times.ahead
        with self.store.reading() as sql:
            due = [reads.next_due(sql)]
        for key in self.connection.scan_iter("rq:scheduled:*"):
            (_, score), *_ = self.connection.zrange(key, 0, 0, withscores=True)  # type: ignore[str-unpack]
            due.append(round(score * SECOND))
        for key in self.connection.scan_iter("bridge:claimed:*"):
            name = key.decode().rpartition(":")[2]
            if not self.connection.exists(f"bridge:lease:{name}"):
                self.take_back()
                return True
            if name[0] in names:
                raise AssertionError(f"{name} holds claims and does nothing")
        times = [moment for moment in due if moment is not None]
        if not times:
            return False
        self.times.pass_by(max(1, min(times) - now))
        return True

    def _left(self) -> str:
        with self.store.reading() as sql:
            rows = sql.execute(sa.select(tables.reads)).mappings().all()
        return f"{rows} {self.connection.keys('rq:*')}"

    def _keep(self) -> None:
        """Every example begins with what stands here now, and no earlier: a read of later would cover its events."""
        self.times.beginning = self.times.present
        with self.store.writing() as sql:
            for table in tables.metadata.sorted_tables:
                self._again.append(f"DELETE FROM {table.name}")
                if table in (tables.changes, tables.reads) or not sql.scalar(
                    sa.select(sa.func.count()).select_from(table)
                ):
                    continue
                sql.exec_driver_sql(f"CREATE TABLE kept_{table.name} AS SELECT * FROM {table.name}")
                self._again.append(f"INSERT INTO {table.name} SELECT * FROM kept_{table.name}")


def of(entity: Entity, facts: Mapping[str, Mapping[Any, Any]]) -> Facts:
    """What the tables say of this entity."""
    if entity.kind == "user":
        members = {key: row for key, row in facts["department_members"].items() if key[1] == entity.id}
        held = [key for key in facts["role_members"] if key[1] == entity.id]
        return facts["users"].get(entity.id), members, sorted(held)
    if entity.kind == "department":
        return (facts["departments"].get(int(entity.id)),)
    return facts["role_groups"], facts["roles"]


class _Readers(Readers):
    """One call after the other: others may work between two."""

    def _read_many(self, asked: Sequence[Asked]) -> list[Answer | ApiError]:
        return [self._try(*item) for item in asked]


class _Clock(RedisClock):
    def now(self) -> Moment:
        pause("versions")
        return super().now()


class _Refresher(Refresher):
    """Pauses before and after each of the three steps."""

    commits = 0

    def note(self, entities: Any) -> Noted:
        pause("claimed")
        noted = super().note(entities)
        pause("noted")
        return noted

    def read(self, wanted: Any) -> Any:
        found = super().read(wanted)
        pause("read")
        return found

    def write(self, *given: Any) -> Any:
        written = super().write(*given)
        self.commits += 1
        pause("written")
        return written
