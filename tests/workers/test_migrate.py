"""The tables of every new datastore, and of one that another program made."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from tests.workers.helpers import Desk
from workers.errors import DatastoreOutdated
from workers.store import migrate, tables
from workers.store.engine import Store, open_store

#: Columns that everybody's SQL may rely on.
PROMISED = {
    "corps": "corp_id name status deleted_at fetched_at raw",
    "departments": "corp_id dept_id parent_id name sort_order manager_userids deleted_at fetched_at raw",
    "users": (
        "corp_id userid unionid name title mobile email job_number manager_userid active admin boss senior visible"
        " admin_level hired_at deleted_at fetched_at raw"
    ),
    "department_members": "corp_id dept_id userid leader sort_order",
    "role_groups": "corp_id group_id name deleted_at fetched_at",
    "roles": "corp_id role_id group_id name deleted_at fetched_at",
    "role_members": "corp_id role_id userid",
    "suites": "suite_key ticket ticket_at",
    "authorizations": "suite_key corp_id permanent_code status agents scope updated_at",
    "events": "id app corp_id type via occurred_at received_at applied_at status error payload",
    "changes": "seq corp_id entity entity_id operation before after event_id changed_at",
}
KEYS = {
    "corps": ["corp_id"],
    "departments": ["corp_id", "dept_id"],
    "users": ["corp_id", "userid"],
    "department_members": ["corp_id", "dept_id", "userid"],
    "role_groups": ["corp_id", "group_id"],
    "roles": ["corp_id", "role_id"],
    "role_members": ["corp_id", "role_id", "userid"],
    "suites": ["suite_key"],
    "authorizations": ["suite_key", "corp_id"],
    "events": ["id"],
    "changes": ["seq"],
}


@pytest.fixture
def empty(datastore_url: str) -> Iterator[Store]:
    """A datastore without any table."""
    store = open_store(datastore_url)
    yield store
    store.close()


def test_the_migrations_make_the_tables_of_the_program(empty: Store) -> None:
    migrate.migrate(empty)
    with empty.reading() as connection:
        assert compare_metadata(MigrationContext.configure(connection), tables.metadata) == []


def test_every_promised_column_and_key_is_there(empty: Store) -> None:
    migrate.migrate(empty)
    inspector = sa.inspect(empty.engine)
    for name, columns in PROMISED.items():
        assert set(columns.split()) <= {column["name"] for column in inspector.get_columns(name)}, name
        assert inspector.get_pk_constraint(name)["constrained_columns"] == KEYS[name]


def test_migrating_again_keeps_the_data(empty: Store) -> None:
    assert migrate.migrate(empty) == migrate.newest()
    with empty.writing() as connection:
        connection.execute(sa.insert(tables.corps).values(corp_id="ding1", name="One"))
    assert migrate.migrate(empty) == migrate.newest()
    assert ScriptDirectory.from_config(migrate.configured()).get_current_head() == migrate.newest()
    migrate.check(empty)
    with empty.reading() as connection:
        assert connection.execute(sa.select(tables.corps.c.corp_id, tables.corps.c.name)).all() == [("ding1", "One")]


def test_rows_of_the_first_revision_live_on(empty: Store) -> None:
    config = migrate.configured()
    with empty.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO users (corp_id, userid, version) VALUES ('ding1', 'u1', 3)"))
    migrate.migrate(empty)
    with empty.reading() as connection:
        row = connection.execute(sa.select(tables.users)).mappings().one()
    assert (row["userid"], row["version"], row["read_event_id"]) == ("u1", 3, None)


def test_two_processes_may_migrate_at_once(empty: Store, datastore_url: str) -> None:
    other = open_store(datastore_url)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(migrate.migrate, [empty, other]))
    other.close()
    assert found == [migrate.newest()] * 2


def test_a_datastore_without_tables_is_named_with_its_mend(empty: Store) -> None:
    with pytest.raises(DatastoreOutdated, match="run `dingbridge migrate`"):
        migrate.check(empty)


def test_a_datastore_of_another_version_is_refused(empty: Store) -> None:
    migrate.migrate(empty)
    with empty.writing() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'tomorrow'"))
    with pytest.raises(DatastoreOutdated):
        migrate.check(empty)


def test_times_are_utc_whatever_zone_they_came_in(desk: Desk) -> None:
    local = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=8)))
    with desk.store.writing() as connection:
        connection.execute(sa.insert(tables.corps).values(corp_id="ding1", fetched_at=local))
    with desk.store.reading() as connection:
        kept = connection.scalar(sa.text("SELECT fetched_at FROM corps"))
    if isinstance(kept, str):
        assert kept == "2026-01-01T19:04:05.000000+00:00"
    else:
        assert kept == local
    assert desk.row(tables.corps)["fetched_at"] == local.astimezone(UTC)


def test_ids_and_orders_hold_64_bits(desk: Desk) -> None:
    most = 2**63 - 1
    with desk.store.writing() as connection:
        row = {"corp_id": "d", "dept_id": most, "userid": "u", "leader": True, "sort_order": -most}
        connection.execute(sa.insert(tables.department_members).values(row))
    assert desk.row(tables.department_members) == row
