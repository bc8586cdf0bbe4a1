"""The datastore's tables. Those of the contract are for everybody's SQL; columns below a gap are our own."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Dialect, Index, Integer, LargeBinary, Table, Text
from sqlalchemy.types import TypeDecorator, TypeEngine


def time_text(time: datetime) -> str:
    """Of one width in UTC, so that it sorts."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


class Timestamp(TypeDecorator[datetime]):
    """An aware UTC time: timestamptz on PostgreSQL, ISO text of one width on SQLite."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(sa.DateTime(timezone=True) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else time_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        return datetime.fromisoformat(value) if isinstance(value, str) else value


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(column_0_N_label)s",
        "pk": "pk_%(table_name)s",
    }
)

#: A number that counts by itself; SQLite does so only for its own integer type.
_Counter = BigInteger().with_variant(Integer, "sqlite")
_Json = sa.JSON(none_as_null=True)


def _guard() -> list[Column[Any]]:
    """What rule 4 needs of a row: its version, and Redis' time (µs) and life of the read it came from.

    And the event that this read was made for, into which events are folded that it covers.
    """
    return [
        Column("version", BigInteger, nullable=False, server_default="0"),
        Column("read_begun", BigInteger),
        Column("read_life", Text),
        Column("read_event_id", Text),
    ]


def _pushed() -> list[Column[Any]]:
    """When the pushed row was made that the values are of, as the API is out of reach, and which row was the newest."""
    return [
        Column("pushed_at", Timestamp),
        Column("pushed_order", Text),
    ]


corps = Table(
    "corps",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("name", Text),
    Column("status", Text, nullable=False, server_default="active"),
    Column("deleted_at", Timestamp),
    Column("fetched_at", Timestamp),
    Column("raw", _Json),
)

departments = Table(
    "departments",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("dept_id", BigInteger, primary_key=True, autoincrement=False),
    Column("parent_id", BigInteger),
    Column("name", Text),
    Column("sort_order", BigInteger),
    Column("manager_userids", _Json),
    Column("deleted_at", Timestamp),
    Column("fetched_at", Timestamp),
    Column("raw", _Json),
    #
    Column("visible", Boolean, nullable=False, server_default=sa.true()),
    *_pushed(),
    *_guard(),
    Index(None, "corp_id", "parent_id"),
)

users = Table(
    "users",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("userid", Text, primary_key=True),
    Column("unionid", Text),
    Column("name", Text),
    Column("title", Text),
    Column("mobile", Text),
    Column("email", Text),
    Column("job_number", Text),
    Column("manager_userid", Text),
    Column("active", Boolean),
    Column("admin", Boolean),
    Column("boss", Boolean),
    Column("senior", Boolean),
    Column("visible", Boolean, nullable=False, server_default=sa.true()),
    Column("hired_at", Timestamp),
    Column("deleted_at", Timestamp),
    Column("fetched_at", Timestamp),
    Column("raw", _Json),
    # What the API leaves out for lack of permission keeps its value, so it needs a place beside `raw`.
    Column("state_code", Text),
    Column("telephone", Text),
    Column("org_email", Text),
    Column("work_place", Text),
    Column("remark", Text),
    Column("extension", Text),
    Column("admin_level", Integer),  # 1 main, 2 sub; NULL for whoever is none
    *_pushed(),
    *_guard(),
    Index(None, "corp_id", "unionid"),
)

department_members = Table(
    "department_members",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("dept_id", BigInteger, primary_key=True, autoincrement=False),
    Column("userid", Text, primary_key=True),
    Column("leader", Boolean, nullable=False),
    Column("sort_order", BigInteger),
    Index(None, "corp_id", "userid"),
)

role_groups = Table(
    "role_groups",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("name", Text),
    Column("deleted_at", Timestamp),
    Column("fetched_at", Timestamp),
)

roles = Table(
    "roles",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("role_id", BigInteger, primary_key=True, autoincrement=False),
    Column("group_id", BigInteger),
    Column("name", Text),
    Column("deleted_at", Timestamp),
    Column("fetched_at", Timestamp),
    #
    *_pushed(),
)

role_members = Table(
    "role_members",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("role_id", BigInteger, primary_key=True, autoincrement=False),
    Column("userid", Text, primary_key=True),
    # With its role_id, or SQLite takes the primary key and looks through the whole corp.
    Index(None, "corp_id", "userid", "role_id"),
)

#: The third-party apps' tickets; without its newest one a suite can read nothing. A ticket never expires here.
suites = Table(
    "suites",
    metadata,
    Column("suite_key", Text, primary_key=True),
    Column("ticket", Text),
    Column("ticket_at", Timestamp),
)

authorizations = Table(
    "authorizations",
    metadata,
    Column("suite_key", Text, primary_key=True),
    Column("corp_id", Text, primary_key=True),
    Column("permanent_code", Text),
    Column("status", Text, nullable=False),
    Column("agents", _Json),
    Column("scope", _Json),
    Column("updated_at", Timestamp),
    # DingTalk's milliseconds of the newest event that told of it: an older one withdraws nothing.
    Column("told_at", BigInteger, nullable=False, server_default="0"),
    Index(None, "corp_id"),
)

events = Table(
    "events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("app", Text, nullable=False),
    Column("corp_id", Text),
    Column("type", Text, nullable=False),
    Column("via", Text, nullable=False),
    Column("occurred_at", Timestamp),
    Column("received_at", Timestamp, nullable=False),
    Column("applied_at", Timestamp),
    Column("status", Text, nullable=False),
    Column("error", Text),
    Column("payload", _Json),
    #
    Column("user_ids", _Json, nullable=False),
    Column("dept_ids", _Json, nullable=False),
    Column("role_ids", _Json, nullable=False),
    Column("folded_into", _Json),  # of a folded one: the events whose reads covered it
    Index(None, "received_at"),
    Index(None, "status", "received_at"),
)

changes = Table(
    "changes",
    metadata,
    Column("seq", _Counter, primary_key=True, autoincrement=True),
    Column("corp_id", Text, nullable=False),
    Column("entity", Text, nullable=False),
    Column("entity_id", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("before", _Json),
    Column("after", _Json),
    Column("event_id", Text),
    Column("changed_at", Timestamp, nullable=False),
    Index(None, "corp_id", "entity", "entity_id"),
    Index(None, "event_id"),
    Index(None, "changed_at"),
    sqlite_autoincrement=True,
)

#: Raised by a comparison; a writer holds it in share mode and writes only what it noted under the same number.
fences = Table(
    "fences",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("n", BigInteger, nullable=False, server_default="0"),
)

#: The guard of a corp's role list, which is read and written as one.
role_lists = Table("role_lists", metadata, Column("corp_id", Text, primary_key=True), *_guard())

#: Reads that no event asks for: echoes, marks, the frontier of a full copy.
reads = Table(
    "reads",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("entity_id", Text, primary_key=True),
    Column("due_at", BigInteger, nullable=False),  # Redis' microseconds
    Column("taken_until", BigInteger, nullable=False, server_default="0"),  # the same; a worker is at it
    Column("priority", Integer, nullable=False),  # the lower goes first
    Column("cause", Text, nullable=False),
    Column("event_id", Text),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Index(None, "priority", "due_at"),
    Index(None, "corp_id", "priority", "due_at"),
    Index(None, "due_at"),
)

#: Each corp's last comparison with DingTalk, and when the next one is due out of turn.
comparisons = Table(
    "comparisons",
    metadata,
    Column("corp_id", Text, primary_key=True),
    # When the clock first knew of the corp; nights before that were not missed.
    Column("known_at", Timestamp, nullable=False),
    # When a first copy, or what stood in for it, was complete; until then what is found is no news to users' functions.
    Column("copied_at", Timestamp),
    Column("due_at", BigInteger),  # Redis' microseconds
    Column("whole", Boolean, nullable=False, server_default=sa.false()),  # the next one has everything read singly
    # The next one hides what the scope has lost: an authorisation said that it changed.
    Column("allow_scope", Boolean, nullable=False, server_default=sa.false()),
    Column("taken_until", BigInteger, nullable=False, server_default="0"),  # Redis' microseconds; a clock is at it
    Column("begun_at", Timestamp),
    Column("ended_at", Timestamp),
    Column("outcome", Text),
    Column("scope", _Json),  # what the app could see then
    Column("report", _Json),  # counts and reasons, nobody's data
)

#: The life (run_id) of Redis that was seen last; one row.
lives = Table(
    "lives",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("run_id", Text, nullable=False),
    Column("seen_at", Timestamp, nullable=False),
)

#: Full copies under way; a row goes when its copy is complete.
copies = Table(
    "copies",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("begun_at", BigInteger, nullable=False),  # Redis' microseconds
    Column("begun_life", Text, nullable=False),  # and that Redis' life
    Column("found", BigInteger, nullable=False, server_default="0"),  # entities noted so far
)

#: The departments that a copy has come upon, the nearest to its roots listed first.
copy_departments = Table(
    "copy_departments",
    metadata,
    Column("corp_id", Text, primary_key=True),
    Column("dept_id", BigInteger, primary_key=True, autoincrement=False),
    Column("depth", Integer, nullable=False),
    Column("listed", Boolean),  # NULL: not yet; false: it could not be
)

#: Jobs owed to users' functions; a row goes when its job has been done.
outbox = Table(
    "outbox",
    metadata,
    Column("id", _Counter, primary_key=True, autoincrement=True),
    Column("function", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("event_id", Text),
    Column("change_seq", BigInteger),
    # Jobs of one entity are enqueued in the order of their rows.
    Column("lane", Text, nullable=False),
    Column("enqueued_at", Timestamp),
    # Given up; the job waits in RQ's failed registry for somebody to requeue it.
    Column("failed_at", Timestamp),
    Index(None, "lane"),
    Index(None, "enqueued_at"),
    sqlite_autoincrement=True,
)

#: Calls for DingTalk's failed list, each noted before it is made; the reply as it came, as DingTalk keeps no other.
failed_lists = Table(
    "failed_lists",
    metadata,
    Column("id", _Counter, primary_key=True, autoincrement=True),
    Column("app", Text, nullable=False),
    Column("asked_at", Timestamp, nullable=False),
    Column("fetched_at", Timestamp),
    Column("body", LargeBinary),
    # All that could be read was accepted, or there is nothing to read.
    Column("taken_at", Timestamp),
    Column("error", Text),
    Index(None, "app", "id"),
    sqlite_autoincrement=True,
)

#: Jobs of users' functions that were done; they were rows of the outbox.
finished_jobs = Table(
    "finished_jobs",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("function", Text, nullable=False),
    Column("event_id", Text),
    Column("change_seq", BigInteger),
    Column("finished_at", Timestamp, nullable=False),
    Index(None, "event_id"),
    Index(None, "change_seq"),
    Index(None, "finished_at"),
)

#: Columns that hold people's data, by table; what `forget` erases and no log, metric or description shows.
PERSONAL_COLUMNS: dict[str, frozenset[str]] = {
    "users": frozenset(
        {
            "unionid", "name", "title", "mobile", "email", "job_number", "manager_userid", "hired_at", "raw",
            "state_code", "telephone", "org_email", "work_place", "remark", "extension",
        }
    ),
}  # fmt: skip
