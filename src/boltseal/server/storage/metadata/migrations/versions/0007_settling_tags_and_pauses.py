"""The index of tags that are settling, and the pauses of upstreams: data format 6."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0007"
down_revision = "0006"
change = Change.CONTRACTS


def upgrade() -> None:
    settling = sa.text("sealed_digest IS NULL AND keep_until_us IS NOT NULL")
    op.create_index("ix_tag_settling", "tag", ["keep_until_us"], sqlite_where=settling, postgresql_where=settling)
    op.create_table(
        "upstream_pause",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.Column("pulls_until_us", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_upstream_pause")),
        sqlite_with_rowid=False,
    )
