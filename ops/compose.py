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
from workers.dingtalk import DingTalk, Observe
from workers.fold import Folder
from workers.moment import RedisClock
from workers.readers import Readers
from workers.refresh import Refresher
from workers.registry import Registry
from workers.store import migrate
from workers.store.engine import Store, open_store
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
    folder: Folder
    registry: Registry

    def close(self) -> None:
        self.readers.close()
        self.store.close()
        self.connection.close()


def open_parts(config: Config, observe: Observe | None = None) -> Parts:
    """Redis, a migrated datastore, DingTalk's API, whose calls `observe` sees, and users' functions.

    Raises RedisUnusable, DatastoreOutdated, JobsModuleMissing.
    """
    connection = trusted_redis(config)
    store = open_store(config.datastore.url)
    migrate.check(store)
    budget = Budget(connection, config.dingtalk.calls_per_second)
    tokens = Tokens(connection)
    http = urllib3.PoolManager(maxsize=2 * READ_THREADS)  # a copy lists and reads at the same time

    def client(app: AppConfig) -> DingTalk:
        assert app.app_key and app.app_secret  # noqa: S101 - only apps that can read get a client
        secret = app.app_secret.get_secret_value()
        return DingTalk(app.name, app.app_key, secret, config.dingtalk.api, budget, tokens, http, observe)

    readers = Readers(config, client, READ_THREADS)
    clock = RedisClock(connection)
    registry = jobs.load_registry(config)
    per_second = config.dingtalk.calls_per_second
    at_once = max(1, round(per_second * AT_ONCE_SECONDS)) if per_second else None
    folder = Folder(Refresher(store, clock, readers), registry, config.dingtalk.settle_seconds, at_once)
    return Parts(config, connection, store, clock, readers, folder, registry)


def trusted_redis(config: Config) -> redis.Redis:
    """A client for workers. Raises RedisUnusable where a setting can lose events, RedisError where it is away."""
    connection = queues.connect(config, Patience.WORKER)
    safety.check(connection, config.redis.accept_unsafe)
    return connection


def sync_worker(parts: Parts, names: Sequence[str]) -> BatchWorker:
    """A worker for these event queues."""
    queues.show_queues(parts.connection)
    dispatcher = jobs.Dispatcher(parts.store, parts.connection)
    return BatchWorker(names, parts.connection, parts.store, parts.folder, dispatcher)
