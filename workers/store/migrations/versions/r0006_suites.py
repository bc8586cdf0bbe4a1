"""What decides about an authorisation, comparisons that may hide, and rows whose values were pushed."""

import sqlalchemy as sa
from alembic import op

from workers.store.tables import Timestamp

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("authorizations", sa.Column("told_at", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("comparisons", sa.Column("allow_scope", sa.Boolean(), server_default=sa.false(), nullable=False))
    for table in ("departments", "users", "roles"):
        op.add_column(table, sa.Column("pushed_at", Timestamp(), nullable=True))
        op.add_column(table, sa.Column("pushed_order", sa.Text(), nullable=True))
    op.create_index(op.f("ix_authorizations_corp_id"), "authorizations", ["corp_id"], unique=False)
