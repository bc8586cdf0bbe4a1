"""Create or upgrade the datastore's tables."""

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from workers.errors import DatastoreOutdated
from workers.store.engine import Store

#: PostgreSQL's advisory lock under which one process migrates; the number is arbitrary.
_LOCK = 0x64696E67


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(store: Store) -> str:
    """Bring the tables to the newest revision, in one transaction; its name."""
    config = _config()
    with store.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    return newest()


def newest() -> str:
    """The newest revision that this program knows."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None  # noqa: S101 - the package always carries its migrations
    return head


def check(store: Store) -> None:
    """Raises DatastoreOutdated unless the tables are those of this program."""
    with store.reading() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
    if present != newest():
        raise DatastoreOutdated
