"""Create or upgrade the datastore's tables."""

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from workers.errors import DatastoreForeign, DatastoreOutdated
from workers.store.engine import Store

if TYPE_CHECKING:
    from alembic.config import Config

#: PostgreSQL's advisory lock under which one process migrates; the number is arbitrary.
_LOCK = 0x64696E67
SCRIPTS = Path(__file__).parent / "migrations"


def migrate(store: Store) -> str:
    """Bring the tables to the newest revision, in one transaction; its name. Raises DatastoreForeign."""
    # Every process checks the tables, few migrate: Alembic takes a third of a second to load.
    from alembic import command
    from alembic.util import CommandError

    config = configured()
    with store.writing() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise DatastoreForeign from error
    return newest()


def configured() -> "Config":
    """What Alembic is to know."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    return config


def newest() -> str:
    """The newest revision that this program knows: the number that the last file of `versions` begins with."""
    return max(script.name[1:5] for script in (SCRIPTS / "versions").glob("r*.py"))


def check(store: Store) -> None:
    """Raises DatastoreOutdated unless the tables are those of this program."""
    with store.reading() as connection:
        present = _present(connection)
    if present != newest():
        raise DatastoreOutdated


def _present(connection: Connection) -> str | None:
    """The revision of the tables, as Alembic notes it; None where there are none."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.scalar(
        sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))
    )
    return version
