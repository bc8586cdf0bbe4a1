"""A desk for the workers' tests: each kind of datastore, the real Redis' clock, a scripted DingTalk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import redis
import sqlalchemy as sa
import structlog

from tests.workers.helpers import Desk, Shop
from workers.moment import RedisClock
from workers.store import migrate, tables
from workers.store.engine import Store, open_store

Stores = Callable[[str], Store]


@pytest.fixture(scope="session", autouse=True)
def plain_logs() -> Iterator[None]:
    """Tracebacks without local variables, as every process of ours writes them; with them they take seconds."""
    renderer = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[structlog.processors.add_log_level, renderer])
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    """A datastore of each kind, made once for the run."""
    opened = []

    @cache
    def of_kind(kind: str) -> Store:
        url = f"sqlite:///{tmp_path_factory.mktemp('desk')}/dingbridge.db"
        if kind == "postgresql":
            url = request.getfixturevalue("postgresql").format(database="postgres")
        store = open_store(url)
        migrate.migrate(store)
        opened.append(store)
        return store

    yield of_kind
    for store in opened:
        store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def desk(request: pytest.FixtureRequest, redis_url: str, stores: Stores) -> Iterator[Desk]:
    """An empty datastore of each kind with everything that writes to it."""
    with _desk(stores(request.param), redis_url) as made:
        yield made


@pytest.fixture
def postgresql_desk(redis_url: str, stores: Stores) -> Iterator[Desk]:
    """The same on PostgreSQL alone, for what only several writers at a time can show."""
    with _desk(stores("postgresql"), redis_url) as made:
        yield made


@pytest.fixture
def shop(desk: Desk, redis_url: str) -> Iterator[Shop]:
    """A desk with a queue of users' jobs and a worker for them."""
    with redis.Redis.from_url(redis_url) as connection:
        yield Shop(desk, connection)


@contextmanager
def _desk(store: Store, redis_url: str) -> Iterator[Desk]:
    with store.writing() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(sa.delete(table))
    with redis.Redis.from_url(redis_url) as connection:
        yield Desk(store, RedisClock(connection))
