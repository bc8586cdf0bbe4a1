"""The event that a read was made for, the events that others are folded into, and jobs that were done."""

import sqlalchemy as sa
from alembic import op

from workers.store.tables import Timestamp

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    for guarded in ("departments", "role_lists", "users"):
        op.add_column(guarded, sa.Column("read_event_id", sa.Text(), nullable=True))
    op.add_column("events", sa.Column("folded_into", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "finished_jobs",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("function", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=True),
        sa.Column("change_seq", sa.BigInteger(), nullable=True),
        sa.Column("finished_at", Timestamp(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finished_jobs")),
    )
    for column in ("change_seq", "event_id", "finished_at"):
        op.create_index(op.f(f"ix_finished_jobs_{column}"), "finished_jobs", [column], unique=False)
