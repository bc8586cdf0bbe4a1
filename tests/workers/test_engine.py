"""A new SQLite file is its owner's alone; one that cannot be made is named. A lost PostgreSQL is given up soon."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from workers.errors import DatastoreUnusable
from workers.store import migrate
from workers.store.engine import open_store


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_nobody_else_reads_a_new_datastore(tmp_path: Path) -> None:
    folder = tmp_path / "var"
    store = open_store(f"sqlite:///{folder}/d.db")
    migrate.migrate(store)
    assert mode(folder) == 0o700
    assert {path.name: mode(path) for path in folder.iterdir()} == dict.fromkeys(
        ["d.db", "d.db-wal", "d.db-shm"], 0o600
    )
    store.close()


def test_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    path.touch(0o640)
    store = open_store(f"sqlite:///{path}")
    migrate.migrate(store)
    store.close()
    assert mode(path) == 0o640


def test_one_in_memory_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"):
        store = open_store(url)
        with store.reading() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        store.close()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DatastoreUnusable, match=r"file/d\.db cannot be made: .*; see datastore\.url"):
        open_store(f"sqlite:///{tmp_path}/file/d.db")


def test_a_port_that_is_no_number_is_named() -> None:
    with pytest.raises(DatastoreUnusable, match="is no URL"):
        open_store("postgresql+psycopg://u:p@h/d?port=abc")


def test_a_postgresql_whose_host_vanishes_is_given_up_soon_unless_the_url_says_otherwise(postgresql_url: str) -> None:
    separator = "&" if "?" in postgresql_url else "?"
    for url, patience in ((postgresql_url, "30000"), (f"{postgresql_url}{separator}tcp_user_timeout=7000", "7000")):
        store = open_store(url)
        with store.reading() as connection:
            given = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
            assert (given["tcp_user_timeout"], given["keepalives_idle"]) == (patience, "10")
        store.close()
