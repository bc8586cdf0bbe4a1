"""Calls for the failed list, with their replies."""

import sqlalchemy as sa
from alembic import op

from workers.store.tables import Timestamp

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "failed_lists",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("app", sa.Text(), nullable=False),
        sa.Column("asked_at", Timestamp(), nullable=False),
        sa.Column("fetched_at", Timestamp(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("taken_at", Timestamp(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_failed_lists")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_failed_lists_app_failed_lists_id"), "failed_lists", ["app", "id"], unique=False)
