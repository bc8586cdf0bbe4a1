"""The first tables."""

import sqlalchemy as sa
from alembic import op

from workers.store.tables import Timestamp

revision = "0001"
down_revision = None


def upgrade() -> None:

    op.create_table(
        "authorizations",
        sa.Column("suite_key", sa.Text(), nullable=False),
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("permanent_code", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("agents", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("scope", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("updated_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("suite_key", "corp_id", name=op.f("pk_authorizations")),
    )
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("entity", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("before", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("after", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("changed_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_changes")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_changes_changed_at"), "changes", ["changed_at"], unique=False)
    op.create_index(
        op.f("ix_changes_corp_id_changes_entity_changes_entity_id"),
        "changes",
        ["corp_id", "entity", "entity_id"],
        unique=False,
    )
    op.create_index(op.f("ix_changes_event_id"), "changes", ["event_id"], unique=False)
    op.create_table(
        "corps",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("status", sa.Text(), server_default="active", nullable=False),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.Column("fetched_at", Timestamp(), nullable=True),
        sa.Column("raw", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", name=op.f("pk_corps")),
    )
    op.create_table(
        "department_members",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("dept_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("userid", sa.Text(), nullable=False),
        sa.Column("leader", sa.Boolean(), nullable=False),
        sa.Column("sort_order", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", "dept_id", "userid", name=op.f("pk_department_members")),
    )
    op.create_index(
        op.f("ix_department_members_corp_id_department_members_userid"),
        "department_members",
        ["corp_id", "userid"],
        unique=False,
    )
    op.create_table(
        "departments",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("dept_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("parent_id", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("sort_order", sa.BigInteger(), nullable=True),
        sa.Column("manager_userids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.Column("fetched_at", Timestamp(), nullable=True),
        sa.Column("raw", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("visible", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("read_begun", sa.BigInteger(), nullable=True),
        sa.Column("read_life", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", "dept_id", name=op.f("pk_departments")),
    )
    op.create_index(
        op.f("ix_departments_corp_id_departments_parent_id"), "departments", ["corp_id", "parent_id"], unique=False
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("app", sa.Text(), nullable=False),
        sa.Column("corp_id", sa.Text(), nullable=True),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("via", sa.Text(), nullable=False),
        sa.Column("occurred_at", Timestamp(), nullable=True),
        sa.Column("received_at", Timestamp(), nullable=False),
        sa.Column("applied_at", Timestamp(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("payload", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("user_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("dept_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("role_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_received_at"), "events", ["received_at"], unique=False)
    op.create_index(op.f("ix_events_status_events_received_at"), "events", ["status", "received_at"], unique=False)
    op.create_table(
        "fences",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("corp_id", name=op.f("pk_fences")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("function", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("change_seq", sa.BigInteger(), nullable=True),
        sa.Column("lane", sa.Text(), nullable=False),
        sa.Column("enqueued_at", Timestamp(), nullable=True),
        sa.Column("failed_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_outbox_enqueued_at"), "outbox", ["enqueued_at"], unique=False)
    op.create_index(op.f("ix_outbox_lane"), "outbox", ["lane"], unique=False)
    op.create_table(
        "reads",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("entity_id", sa.Text(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("taken_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="1", nullable=False),
        sa.PrimaryKeyConstraint("corp_id", "kind", "entity_id", name=op.f("pk_reads")),
    )
    op.create_index(op.f("ix_reads_due_at"), "reads", ["due_at"], unique=False)
    op.create_index(op.f("ix_reads_priority_reads_due_at"), "reads", ["priority", "due_at"], unique=False)
    op.create_table(
        "role_groups",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("group_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.Column("fetched_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", "group_id", name=op.f("pk_role_groups")),
    )
    op.create_table(
        "role_lists",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("read_begun", sa.BigInteger(), nullable=True),
        sa.Column("read_life", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", name=op.f("pk_role_lists")),
    )
    op.create_table(
        "role_members",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("role_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("userid", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("corp_id", "role_id", "userid", name=op.f("pk_role_members")),
    )
    op.create_index(
        op.f("ix_role_members_corp_id_role_members_userid"), "role_members", ["corp_id", "userid"], unique=False
    )
    op.create_table(
        "roles",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("role_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.Column("fetched_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", "role_id", name=op.f("pk_roles")),
    )
    op.create_table(
        "suites",
        sa.Column("suite_key", sa.Text(), nullable=False),
        sa.Column("ticket", sa.Text(), nullable=True),
        sa.Column("ticket_at", Timestamp(), nullable=True),
        sa.PrimaryKeyConstraint("suite_key", name=op.f("pk_suites")),
    )
    op.create_table(
        "users",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("userid", sa.Text(), nullable=False),
        sa.Column("unionid", sa.Text(), nullable=True),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("mobile", sa.Text(), nullable=True),
        sa.Column("email", sa.Text(), nullable=True),
        sa.Column("job_number", sa.Text(), nullable=True),
        sa.Column("manager_userid", sa.Text(), nullable=True),
        sa.Column("active", sa.Boolean(), nullable=True),
        sa.Column("admin", sa.Boolean(), nullable=True),
        sa.Column("boss", sa.Boolean(), nullable=True),
        sa.Column("senior", sa.Boolean(), nullable=True),
        sa.Column("visible", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("hired_at", Timestamp(), nullable=True),
        sa.Column("deleted_at", Timestamp(), nullable=True),
        sa.Column("fetched_at", Timestamp(), nullable=True),
        sa.Column("raw", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("state_code", sa.Text(), nullable=True),
        sa.Column("telephone", sa.Text(), nullable=True),
        sa.Column("org_email", sa.Text(), nullable=True),
        sa.Column("work_place", sa.Text(), nullable=True),
        sa.Column("remark", sa.Text(), nullable=True),
        sa.Column("extension", sa.Text(), nullable=True),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("read_begun", sa.BigInteger(), nullable=True),
        sa.Column("read_life", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", "userid", name=op.f("pk_users")),
    )
    op.create_index(op.f("ix_users_corp_id_users_unionid"), "users", ["corp_id", "unionid"], unique=False)
