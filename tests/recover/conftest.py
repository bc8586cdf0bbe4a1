"""Installations whose failed lists are read in small pages."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ops import compose
from simulator import api_callbacks
from tests.installation import Installation, installed
from tests.recover.failed_list import PAGE, LaterClock, a_suite
from workers import recover as module


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_callbacks, "FAILED_PAGE", PAGE)
    monkeypatch.setattr("workers.dingtalk.FAILED_RECORDS_PAGE", PAGE)
    monkeypatch.setattr(module, "ACCEPT_EVENTS", PAGE // 2)


@pytest.fixture
def place(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with installed(redis_url, datastore_url, tmp_path) as installation:
        yield installation


@pytest.fixture
def one_place(redis_url: str, tmp_path: Path) -> Iterator[Installation]:
    """On SQLite alone, for what the datastore has no part in."""
    with installed(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path) as installation:
        yield installation


@pytest.fixture
def suite(redis_url: str, datastore_url: str, tmp_path: Path) -> Iterator[Installation]:
    with a_suite(redis_url, datastore_url, tmp_path) as installation:
        yield installation


@pytest.fixture
def timed(one_place: Installation, monkeypatch: pytest.MonkeyPatch) -> LaterClock:
    """The clock of every recovery that is made."""
    clock = LaterClock(one_place.parts.connection)
    monkeypatch.setattr(compose, "RedisClock", lambda _connection: clock)
    return clock
