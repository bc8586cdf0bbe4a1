"""Puts the parts together as the configuration says."""

from collections.abc import Sequence
from dataclasses import dataclass

import redis
import urllib3

from bridge import queues, safety
from bridge.config import AppConfig, Config
from bridge.queues import Patience
from workers import jobs
from workers.batch import BatchWorker
from workers.budget import Budget
from workers.dingtalk import DingTalk
from workers.fold import Folder
from workers.moment import RedisClock
from workers.nightly import Nightly
from workers.readers import Readers
from workers.refresh import Refresher
from workers.registry import Registry
from workers.store import migrate
from workers.store.engine import Store, open_store
from workers.tokens import Tokens

#: API calls that one worker makes at the same time.
READ_THREADS = 32


@dataclass(frozen=True)
class Parts:
    """What a process that works on the datastore is made of."""

    config: Config
    connection: redis.Redis
    store: Store
    clock: RedisClock
    readers: Readers
    refresher: Refresher
    folder: Folder
    registry: Registry

    def close(self) -> None:
        self.readers.close()
        self.store.close()
        self.connection.close()


def open_parts(config: Config) -> Parts:
    """Redis, a migrated datastore, DingTalk's API and users' functions.

    Raises RedisUnusable, DatastoreOutdated, JobsModuleMissing.
    """
    connection = trusted_redis(config)
    store = open_store(config.datastore.url)
    migrate.check(store)
    readers = readers_of(config, connection)
    clock = RedisClock(connection)
    registry = jobs.load_registry(config)
    refresher = Refresher(store, clock, readers)
    folder = Folder(refresher, registry, config.dingtalk.settle_seconds)
    return Parts(config, connection, store, clock, readers, refresher, folder, registry)


def readers_of(config: Config, connection: redis.Redis) -> Readers:
    """DingTalk's API, as every app that has the credentials sees it."""
    budget = Budget(connection, config.dingtalk.calls_per_second)
    tokens = Tokens(connection)
    http = urllib3.PoolManager(maxsize=READ_THREADS)

    def client(app: AppConfig) -> DingTalk:
        assert app.app_key and app.app_secret  # noqa: S101 - only apps that can read get a client
        return DingTalk(
            app.name, app.app_key, app.app_secret.get_secret_value(), config.dingtalk.api, budget, tokens, http
        )

    return Readers(config, client, READ_THREADS)


def trusted_redis(config: Config) -> redis.Redis:
    """A client for workers. Raises RedisUnusable where a setting can lose events, RedisError where it is away."""
    connection = queues.connect(config, Patience.WORKER)
    safety.check(connection, config.redis.accept_unsafe)
    return connection


def nightly(config: Config, connection: redis.Redis, store: Store, readers: Readers) -> Nightly:
    """The comparisons that a clock makes."""
    corp_ids = {app.corp_id for app in config.apps if app.corp_id}
    settle = config.dingtalk.settle_seconds
    return Nightly(store, RedisClock(connection), readers.client, corp_ids, config.clock, config.heal, settle)


def sync_worker(parts: Parts, names: Sequence[str]) -> BatchWorker:
    """A worker for these event queues."""
    queues.show_queues(parts.connection)
    dispatcher = jobs.Dispatcher(parts.store, parts.connection)
    return BatchWorker(names, parts.connection, parts.store, parts.folder, dispatcher)
