"""Installations of one suite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.suites.stage import Stage, a_stage
from workers.registry import Registry


@pytest.fixture(params=["http on sqlite", "rows on postgresql"])
def stage(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path, registry: Registry) -> Iterator[Stage]:
    """One suite, told in each form, each on another datastore: the two have nothing to do with one another."""
    rows = request.param.startswith("rows")
    url = request.getfixturevalue("postgresql_url") if rows else f"sqlite:///{tmp_path}/dingbridge.db"
    with a_stage(redis_url, url, tmp_path, rows) as made:
        yield made


@pytest.fixture
def one_stage(redis_url: str, tmp_path: Path) -> Iterator[Stage]:
    """On SQLite alone, told over HTTP."""
    with a_stage(redis_url, f"sqlite:///{tmp_path}/dingbridge.db", tmp_path, False) as made:
        yield made
