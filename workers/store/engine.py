"""Open the datastore: PostgreSQL, or SQLite made as durable as it can be."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.pool import ConnectionPoolEntry

from workers.errors import DatastoreUnusable
from workers.store import tables

#: Milliseconds to wait for SQLite's one writer.
BUSY_TIMEOUT = 30_000
#: Seconds for a PostgreSQL to take a connection; without a limit one that hangs holds its caller up for ever.
CONNECT_SECONDS = 10
#: By which a PostgreSQL whose host has vanished is given up within half a minute instead of hours: seconds without a
#: word until it is asked for a sign of life, between two such, how many; milliseconds for what was sent to arrive.
LOST_HOST = {
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
#: Seconds between two attempts to switch SQLite's journal, which does not wait by itself.
SWITCH_SECONDS = 0.01
#: For who writes most of a datastore: KiB of pages that are kept, in place of 2 000, and how many pages (of 4 KiB) may
#: have been written before they are brought from the journal into the file, in place of 1 000.
BULK = ("PRAGMA cache_size=-32000", "PRAGMA wal_autocheckpoint=8000")
#: Execution option of a transaction that only reads.
_READ_ONLY = "dingbridge_read_only"


class Store:
    """A datastore and its two kinds of transaction."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reader = engine.execution_options(**{_READ_ONLY: True})

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads and keeps nobody waiting."""
        with self._reader.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes; on SQLite the only one at its time."""
        with self.engine.begin() as connection:
            yield connection

    @contextmanager
    def rehearsing(self) -> Iterator[Connection]:
        """A transaction that writes and is taken back at its end, whatever happened in it."""
        with self.engine.connect() as connection:
            yield connection
            connection.rollback()

    def close(self) -> None:
        self.engine.dispose()


def open_store(url: str, connect_seconds: int = CONNECT_SECONDS, *, bulk: bool = False) -> Store:
    """The datastore at `url`; a folder for SQLite's file is made. `connect_seconds` is the patience for PostgreSQL.

    `bulk`: for a process that soon writes most of it, and takes more memory for that.
    Raises DatastoreUnusable for what is no URL, and where SQLite's file cannot be made.
    """
    parsed = _parse(url)
    options: dict[str, Any] = {
        "hide_parameters": True,  # they are people's data, and errors are logged
        "json_serializer": tables.json_text,
        "json_deserializer": msgspec.json.decode,
    }
    if parsed.get_backend_name() == "sqlite":
        return Store(_open_sqlite(parsed, options, BULK if bulk else ()))
    # What the URL says wins.
    patient = parsed.update_query_dict({"connect_timeout": str(connect_seconds), **LOST_HOST, **parsed.query})
    try:
        engine = sa.create_engine(patient, pool_pre_ping=True, isolation_level="READ COMMITTED", **options)
    except sa.exc.ArgumentError:  # as of a port that is no number
        raise DatastoreUnusable from None
    return Store(engine)


def _parse(url: str) -> URL:
    try:
        return make_url(url)
    except (ValueError, sa.exc.ArgumentError):
        raise DatastoreUnusable from None  # the error may hold the password


def _open_sqlite(url: URL, options: dict[str, Any], pragmas: Sequence[str]) -> Engine:
    if url.database and url.database != ":memory:" and "uri" not in url.query:
        _make_file(Path(url.database))
    engine = sa.create_engine(url, **options)
    sa.event.listen(engine, "connect", partial(_prepare_sqlite, pragmas))
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_file(path: Path) -> None:
    """An empty file that nobody else may read, as people's data will lie in it; SQLite's other files take its mode."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Only a new one is opened: to close it would let go of the locks that this process has on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise DatastoreUnusable(f"the datastore's file {path} cannot be made: {reason}; see datastore.url") from error


def _prepare_sqlite(pragmas: Sequence[str], connection: Any, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # BEGIN is ours to send
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT}")
    _use_wal(cursor)
    # An event is told finished to Redis only after its commit is on the disk.
    cursor.execute("PRAGMA synchronous=FULL")
    for pragma in pragmas:
        cursor.execute(pragma)
    cursor.close()


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """While another process opens a new file too, SQLite says "locked" at once, whatever the timeout."""
    deadline = time.monotonic() + BUSY_TIMEOUT / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(SWITCH_SECONDS)
        else:
            return


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get(_READ_ONLY)
    # Read-then-write under a plain BEGIN fails at once with "locked".
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
