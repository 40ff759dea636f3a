"""Who added a blob and who made a repository, and running totals of it: data format 2."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0003"
down_revision = "0002"
change = Change.CONTRACTS


def upgrade() -> None:
    op.add_column("repository", sa.Column("created_by", sa.Text(), nullable=True))
    op.add_column("blob", sa.Column("added_by", sa.Text(), nullable=True))
    op.create_table(
        "usage",
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("repositories", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("holder", name=op.f("pk_usage")),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO usage (holder, size, repositories) SELECT pushed_by, SUM(size), 0 FROM manifest GROUP BY pushed_by"
    )
