"""Puts the parts together as the configuration says."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import redis
from sqlalchemy.engine import Connection

from bridge import queues, safety
from bridge.config import AppConfig, Config
from bridge.queues import Patience
from workers import jobs
from workers.batch import CORP_SHARE, BatchWorker
from workers.budget import Budget
from workers.claims import UNSHARED
from workers.dingtalk import DingTalk, Observe
from workers.fold import Folder
from workers.http import Http
from workers.moment import RedisClock
from workers.nightly import Nightly
from workers.owing import owe_changes
from workers.readers import Readers
from workers.recover import Recovery, Source
from workers.refresh import Refresher
from workers.registry import Registry
from workers.store import migrate
from workers.store.engine import CONNECT_SECONDS, Store, open_store
from workers.store.suites import letting_in, ticket_of
from workers.suiteapi import Suite
from workers.suites import Done, Suites
from workers.tokens import Tokens

#: API calls that one worker makes at the same time.
READ_THREADS = 32
#: A worker reads what the budget grants within so many seconds, then commits: long enough to hide a call's latency.
AT_ONCE_SECONDS = 2 / 3


@dataclass(frozen=True)
class Parts:
    """What a process that works on the datastore is made of."""

    config: Config
    connection: redis.Redis
    store: Store
    clock: RedisClock
    readers: Readers
    suites: Suites
    refresher: Refresher
    folder: Folder
    registry: Registry

    def close(self) -> None:
        self.readers.close()
        self.store.close()
        self.connection.close()


def open_parts(config: Config, observe: Observe | None = None, *, bulk: bool = False) -> Parts:
    """Redis, a migrated datastore, DingTalk's API, whose calls `observe` sees, and users' functions.

    `bulk` is that of `open_store`.
    Raises RedisUnusable, DatastoreOutdated, JobsModuleMissing.
    """
    connection = trusted_redis(config)
    store = open_store(config.datastore.url, bulk=bulk)
    migrate.check(store)
    clients = Clients(config, connection, store, observe)
    readers = _readers(config, clients, store)
    clock = RedisClock(connection)
    suites = Suites(config, store, clock, clients.suite)
    registry = jobs.load_registry(config)
    refresher = Refresher(store, clock, readers)
    per_second = config.dingtalk.calls_per_second
    at_once = max(1, round(per_second * AT_ONCE_SECONDS)) if per_second else None
    folder = Folder(refresher, registry, suites, config.dingtalk.settle_seconds, at_once)
    return Parts(config, connection, store, clock, readers, suites, refresher, folder, registry)


@contextmanager
def migrated(config: Config, connect_seconds: int = CONNECT_SECONDS) -> Iterator[Store]:
    """The datastore alone, open while this lasts; the patience is that of `open_store`. Raises DatastoreOutdated."""
    store = open_store(config.datastore.url, connect_seconds)
    try:
        migrate.check(store)
        yield store
    finally:
        store.close()


def readers_of(config: Config, connection: redis.Redis, store: Store) -> Readers:
    """DingTalk's API, as every app that has the credentials sees it."""
    return _readers(config, Clients(config, connection, store), store)


def _readers(config: Config, clients: "Clients", store: Store) -> Readers:
    def let_in(corp_ids: Collection[str]) -> Mapping[str, Collection[str]]:
        with store.reading() as connection:
            return letting_in(connection, corp_ids)

    return Readers(config, clients.corp, READ_THREADS, let_in)


class Clients:
    """DingTalk's API as the apps see it; they share the budget, tokens and connections."""

    def __init__(self, config: Config, connection: redis.Redis, store: Store, observe: Observe | None = None) -> None:
        self._api = config.dingtalk.api
        self._shared = (Budget(connection, config.dingtalk.calls_per_second), Tokens(connection))
        self._http = Http()
        self._store = store
        self._observe = observe

    def corp(self, app: AppConfig, corp_id: str) -> DingTalk:
        """A corp, as an app that can read it sees it."""
        return self.suite(app).corp(corp_id) if app.kind == "suite" else self.internal(app)

    def internal(self, app: AppConfig) -> DingTalk:
        """An internal app, in its corp."""
        assert app.app_key and app.app_secret  # noqa: S101 - only apps that can read get a client
        secret = app.app_secret.get_secret_value()
        return DingTalk(app.name, app.app_key, secret, self._api, *self._shared, self._http, self._observe)

    def suite(self, app: AppConfig) -> Suite:
        """A third-party app, for itself."""
        key, secret = app.suite_key, app.suite_secret
        assert key and secret  # noqa: S101 - as above

        def ticket() -> str | None:
            with self._store.reading() as connection:
                return ticket_of(connection, key)

        given = (app.name, key, secret.get_secret_value(), self._api, *self._shared, self._http)
        return Suite(*given, ticket, self._observe)


def recovery(config: Config, connection: redis.Redis, store: Store) -> Recovery:
    """What reads the failed lists of all apps with credentials."""
    clients = Clients(config, connection, store)
    sources = [Source(app, clients.internal(app)) for app in config.apps if app.reads]
    sources += [Source(app, clients.suite(app)) for app in config.suites]
    return Recovery(sources, store, RedisClock(connection), connection)


def trusted_redis(config: Config) -> redis.Redis:
    """A client for workers. Raises RedisUnusable where a setting can lose events, RedisError where it is away."""
    connection = queues.connect(config, Patience.WORKER)
    safety.check(connection, config.redis.accept_unsafe)
    return connection


def nightly(config: Config, connection: redis.Redis, store: Store, readers: Readers) -> Nightly:
    """The comparisons that a clock makes. Raises JobsModuleMissing."""
    clock = RedisClock(connection)
    corp_ids = {app.corp_id for app in config.apps if app.corp_id}
    suites = Suites(config, store, clock, Clients(config, connection, store).suite)
    registry = jobs.load_registry(config) if suites else Registry()

    def note(tx: Connection, done: Done) -> None:
        owe_changes(tx, registry, done.changes, datetime.now(UTC))

    def renew(corp_id: str) -> None:
        suites.renew_all(corp_id, note)

    settle = config.dingtalk.settle_seconds
    return Nightly(store, clock, readers, renew, suites.halted, corp_ids, config.clock, config.heal, settle)


def sync_worker(parts: Parts, names: Sequence[str]) -> BatchWorker:
    """A worker for these event queues."""
    queues.show_queues(parts.connection)
    dispatcher = jobs.Dispatcher(parts.store, parts.connection)
    share = CORP_SHARE if parts.suites else UNSHARED
    return BatchWorker(names, parts.connection, parts.store, parts.folder, dispatcher, share=share)
