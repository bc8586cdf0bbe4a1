"""A console on a real Redis and a real datastore, and somebody who is logged in."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from bridge.config import Config
from ops.console.app import create_console
from tests.installation import settings
from tests.ops.console.visitor import PASSWORD, Opener, Visitor
from workers.store import migrate
from workers.store.engine import Store, open_store


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A migrated datastore."""
    opened = open_store(f"sqlite:///{tmp_path}/console.db")
    migrate.migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def both_stores(datastore_url: str) -> Iterator[Store]:
    """A migrated datastore, once of each kind."""
    opened = open_store(datastore_url)
    migrate.migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def opened(connection: redis.Redis, store: Store) -> Opener:
    def make(users: dict[str, str] | None = None, at: redis.Redis = connection, **sections: Any) -> Visitor:
        people = {"admin": PASSWORD, "bob": "another one"} if users is None else users
        config = Config.model_validate(settings(console={"users": people}, **sections))
        return Visitor(create_console(config, at, store).test_client())

    return make


@pytest.fixture
def visitor(opened: Opener) -> Visitor:
    """Somebody who is logged in."""
    fresh = opened()
    fresh.log_in()
    return fresh
