"""How far full copies have come, and the levels of admins."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("users", sa.Column("admin_level", sa.Integer(), nullable=True))
    op.create_index(
        op.f("ix_reads_corp_id_reads_priority_reads_due_at"), "reads", ["corp_id", "priority", "due_at"], unique=False
    )
    op.drop_index(op.f("ix_role_members_corp_id_role_members_userid"), "role_members")
    op.create_index(
        op.f("ix_role_members_corp_id_role_members_userid_role_members_role_id"),
        "role_members",
        ["corp_id", "userid", "role_id"],
        unique=False,
    )
    op.create_table(
        "copies",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("begun_at", sa.BigInteger(), nullable=False),
        sa.Column("begun_life", sa.Text(), nullable=False),
        sa.Column("found", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("corp_id", name=op.f("pk_copies")),
    )
    op.create_table(
        "copy_departments",
        sa.Column("corp_id", sa.Text(), nullable=False),
        sa.Column("dept_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("depth", sa.Integer(), nullable=False),
        sa.Column("listed", sa.Boolean(), nullable=True),
        sa.PrimaryKeyConstraint("corp_id", "dept_id", name=op.f("pk_copy_departments")),
    )
