"""Whose bucket it is, whether a rebuild is under way, and which objects have the bytes of manifests."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0012"
down_revision = "0011"
change = Change.CONTRACTS


def upgrade() -> None:
    op.create_table(
        "bucket_owner",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("registry", _TEXT, nullable=False),
        sa.Column("claimed", sa.Boolean(), nullable=False),
        sa.Column("rebuilding", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bucket_owner")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "manifest_object",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("key", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_manifest_object_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_manifest_object")),
        sa.UniqueConstraint("key", name=op.f("uq_manifest_object_key")),
        sqlite_with_rowid=False,
    )
