"""Blobs that garbage collection has hidden from clients, and the state of their reviews."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0014"
down_revision = "0013"
change = Change.CONTRACTS


def upgrade() -> None:
    op.add_column("blob", sa.Column("hidden_us", sa.BigInteger(), nullable=True))
    op.add_column("blob_review", sa.Column("removed_us", sa.BigInteger(), nullable=True))
    op.add_column("blob_review", sa.Column("problem", _TEXT, nullable=True))
    op.create_index(
        "ix_blob_review_problem",
        "blob_review",
        ["digest"],
        sqlite_where=sa.text("problem IS NOT NULL"),
        postgresql_where=sa.text("problem IS NOT NULL"),
    )
