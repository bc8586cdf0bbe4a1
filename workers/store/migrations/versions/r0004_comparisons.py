"""Comparisons with DingTalk, and the lives of Redis."""

import sqlalchemy as sa
from alembic import op

from workers.store.tables import Timestamp

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("known_at", Timestamp(), nullable=False),
        sa.Column("copied_at", Timestamp(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("whole", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("taken_until", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("begun_at", Timestamp(), nullable=True),
        sa.Column("ended_at", Timestamp(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("scope", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("report", sa.JSON(none_as_null=True), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", name=op.f("pk_comparisons")),
    )
    op.create_table(
        "lives",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("seen_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lives")),
    )
