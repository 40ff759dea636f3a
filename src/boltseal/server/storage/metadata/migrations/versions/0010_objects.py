"""Which objects of an object store have the bytes of blobs and uploads. The tables are empty where the bytes are files."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0010"
down_revision = "0009"
change = Change.CONTRACTS


def upgrade() -> None:
    name = sa.Text().with_variant(sa.dialects.postgresql.TEXT(collation="C"), "postgresql")
    op.create_table(
        "stored_blob",
        sa.Column("digest", name, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("stored_us", sa.BigInteger(), nullable=False),
        sa.Column("version", name, nullable=False),
        sa.Column("index_key", name, nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_stored_blob")),
        sqlite_with_rowid=False,
    )
    _keys("blob_key", "digest", name)
    many = sa.text("position = 1")
    op.create_index("ix_blob_key_many", "blob_key", ["digest"], sqlite_where=many, postgresql_where=many)
    op.create_table(
        "dead_key",
        sa.Column("key", name, nullable=False),
        sa.Column("due_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_dead_key")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_dead_key_due_us"), "dead_key", ["due_us"])
    op.create_table(
        "upload_progress",
        sa.Column("name", name, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("digest", name, nullable=True),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.Column("writer", name, nullable=True),
        sa.Column("writer_until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_upload_progress")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_upload_progress_writer"), "upload_progress", ["writer"])
    _keys("upload_part", "name", name)


def _keys(table: str, of: str, name: sa.types.TypeEngine[str]) -> None:
    op.create_table(
        table,
        sa.Column(of, name, nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", name, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(of, "position", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("key", name=op.f(f"uq_{table}_key")),
        sqlite_with_rowid=False,
    )
