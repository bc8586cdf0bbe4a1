"""Fixtures for every test: a real Redis, a real PostgreSQL, a datastore of each kind."""

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, Phase, settings

import workers
from bridge.intake import Intake
from tests.servers import flush, fresh_database, running_postgresql, running_redis
from workers.registry import Registry

# A shell's background job ignores Ctrl-C, and so would each process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# A busy machine is no failure.
settings.register_profile("dingbridge", deadline=None)
settings.load_profile("dingbridge")
# Of `make mutants`: the same verdict every time, soon, of tests that run often in one process.
settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    max_examples=20,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.differing_executors],
)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of one Redis for the whole run."""
    with running_redis() as url:
        yield url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """The URL of an empty Redis."""
    flush(redis_server)
    return redis_server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """A URL of one PostgreSQL for the whole run, with a place for the database's name."""
    with running_postgresql() as url:
        yield url


@pytest.fixture
def postgresql_url(postgresql: str) -> Iterator[str]:
    """The URL of an empty database on PostgreSQL."""
    with fresh_database(postgresql) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def datastore_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty datastore, once of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/dingbridge.db"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Users' functions of this test alone, for every installation that is made after it."""
    fresh = Registry()
    monkeypatch.setattr(workers, "registry", fresh)
    return fresh


@pytest.fixture(autouse=True)
def loggers_can_be_captured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A verb that is run in this process sets up logs; a logger that it keeps would be out of the next test's reach."""
    given, configure = structlog.get_config(), structlog.configure
    monkeypatch.setattr(structlog, "configure", lambda **more: configure(**more | {"cache_logger_on_first_use": False}))
    yield
    configure(**given)


@pytest.fixture(autouse=True)
def _no_drainer_outlives_its_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One that does notes its last verdicts in the next test's Redis, and an open socket becomes a warning later."""
    begun: list[Intake] = []
    plain = Intake.start

    def start(self: Intake) -> None:
        begun.append(self)
        plain(self)

    monkeypatch.setattr(Intake, "start", start)
    yield
    for intake in begun:
        intake.stop()
    for thread in threading.enumerate():
        if thread.name == "drain":
            thread.join(10)
    for intake in begun:
        intake._connection.close()
