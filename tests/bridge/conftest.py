"""A receiver of many apps, and the Redis behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient

from tests.bridge.wsgi import many_apps, receiver


@pytest.fixture
def http(redis_url: str, tmp_path: Path) -> FlaskClient:
    return receiver(many_apps(redis_url, tmp_path / "var")).test_client()


@pytest.fixture
def connection(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client
