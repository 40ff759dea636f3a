"""Blobs that garbage collection looks at again, its position in a full collection, and the index object of each upload."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_HOUR_US = 3600 * 1_000_000
revision = "0013"
down_revision = "0012"
change = Change.CONTRACTS


def upgrade() -> None:
    op.create_table(
        "blob_review",
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("repository_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", "repository_id", name=op.f("pk_blob_review")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_blob_review_due_us"), "blob_review", ["due_us"])
    op.create_table(
        "full_collection",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("stage", _TEXT, nullable=False),
        sa.Column("position", _TEXT, nullable=False),
        sa.Column("began_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_full_collection")),
        sqlite_with_rowid=False,
    )
    op.add_column("upload_progress", sa.Column("index_key", _TEXT, nullable=True))
    op.execute(
        f"INSERT INTO blob_review (digest, repository_id, due_us) SELECT digest, 0, released_us + {_HOUR_US} FROM released"  # noqa: S608 - a constant
    )
