"""The first schema, as data format 1 has it. A revision never changes once it was released."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

NAME = sa.Text().with_variant(sa.TEXT(collation="C"), "postgresql")

revision = "0001"
down_revision = None
change = Change.CONTRACTS


def upgrade() -> None:
    op.create_table(
        "content",
        sa.Column("canonical", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("canonical", name=op.f("pk_content")),
    )
    op.create_table(
        "entry",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("repository", NAME, nullable=False),
        sa.Column("tag", NAME, nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("pk_entry")),
    )
    op.create_index(op.f("ix_entry_repository_tag_idx"), "entry", ["repository", "tag", "idx"], unique=False)

    op.create_table(
        "ledger_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("last_time_us", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ledger_head")),
    )
    op.create_table(
        "released",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("released_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_released")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "repository",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_repository")),
        sa.UniqueConstraint("name", name=op.f("uq_repository_name")),
    )
    op.create_table(
        "blob",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("added_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_blob_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_blob")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_blob_digest"), "blob", ["digest"], unique=False)

    op.create_table(
        "link",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=False),
        sa.Column("child", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_link_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "parent", "child", "kind", name=op.f("pk_link")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_link_repository_id_child"), "link", ["repository_id", "child"], unique=False)

    op.create_table(
        "manifest",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("canonical", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("artifact_type", sa.Text(), nullable=True),
        sa.Column("annotations", sa.Text(), nullable=True),
        sa.Column("pushed_us", sa.BigInteger(), nullable=False),
        sa.Column("pushed_by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_manifest_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_manifest")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_manifest_canonical"), "manifest", ["canonical"], unique=False)
    op.create_index(op.f("ix_manifest_repository_id_subject"), "manifest", ["repository_id", "subject"], unique=False)

    op.create_table(
        "tag",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("name", NAME, nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("canonical", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("entry_index", sa.BigInteger(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.Text(), nullable=False),
        sa.Column("sealed_digest", sa.Text(), nullable=True),
        sa.Column("sealed_canonical", sa.Text(), nullable=True),
        sa.Column("sealed_media_type", sa.Text(), nullable=True),
        sa.Column("sealed_us", sa.BigInteger(), nullable=True),
        sa.Column("sealed_by", sa.Text(), nullable=True),
        sa.Column("keep", sa.Text(), nullable=True),
        sa.Column("keep_until_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_tag_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "name", name=op.f("pk_tag")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_tag_repository_id_digest"), "tag", ["repository_id", "digest"], unique=False)
