"""A console on a real Redis and a real datastore, and somebody who is logged in."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from bridge.config import Config
from ops.console.app import create_console
from tests.installation import settings
from workers.store import migrate
from workers.store.engine import Store, open_store

PASSWORD = "correct horse battery"


@dataclass
class Browser:
    """Flask's test client, with the token that every change needs."""

    client: FlaskClient
    token: str = field(default="", init=False)

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.client.get(path, **more)

    def post(self, path: str, **more: Any) -> TestResponse:
        return self.client.post(path, headers={"X-CSRFToken": self.token}, **more)

    def log_in(self, name: str = "admin", password: str = PASSWORD, **more: Any) -> TestResponse:
        token = csrf(self.get("/login"))
        form = {"csrf_token": token, "name": name, "password": password, **more}
        answer = self.client.post("/login", data=form)
        if answer.status_code == 303:
            self.token = csrf(self.get("/"))
        return answer


def csrf(answer: TestResponse) -> str:
    """The token on a page."""
    found = re.search(r'name="csrf[_-]token" (?:value|content)="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


Opener = Callable[..., Browser]


@pytest.fixture
def store(datastore_url: str) -> Iterator[Store]:
    """A migrated datastore, of each kind."""
    opened = open_store(datastore_url)
    migrate.migrate(opened)
    yield opened
    opened.close()


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def opened(connection: redis.Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opener]:
    """Opens a browser on a console; `users` and other sections of the configuration as given."""
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('console')}/console.db")
    migrate.migrate(store)

    def make(users: dict[str, str] | None = None, at: Store = store, **sections: Any) -> Browser:
        people = {"admin": PASSWORD, "bob": "another one"} if users is None else users
        config = Config.model_validate(settings(console={"users": people}, **sections))
        return Browser(create_console(config, connection, at).test_client())

    yield make
    store.close()


@pytest.fixture
def browser(opened: Opener) -> Browser:
    """Somebody who is logged in."""
    fresh = opened()
    fresh.log_in()
    return fresh
