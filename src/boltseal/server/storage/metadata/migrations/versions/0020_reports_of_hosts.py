"""Reports of hosts: what runs there, what scrub found, how releases ended."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0020"
down_revision = "0019"
change = Change.EXPANDS


def upgrade() -> None:
    op.create_table(
        "host",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("login", _TEXT, nullable=False),
        sa.Column("first_us", sa.BigInteger(), nullable=False),
        sa.Column("last_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_host")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_host_login"), "host", ["login"])
    op.create_table(
        "host_subject",
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.Column("every_s", sa.Integer(), nullable=True),
        sa.Column("complete", sa.Boolean(), nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("summary", _TEXT, nullable=False),
        sa.Column("images_sha256", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("host", "kind", "subject", name=op.f("pk_host_subject")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "host_image",
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("item", sa.Integer(), nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("repository", _TEXT, nullable=False),
        sa.Column("tag", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("host", "kind", "subject", "item", "digest", name=op.f("pk_host_image")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_host_image_digest_host"), "host_image", ["digest", "host"])
    op.create_index(op.f("ix_host_image_repository_tag_host"), "host_image", ["repository", "tag", "host"])
    op.create_table(
        "host_report",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("host", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("received_us", sa.BigInteger(), nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("summary", _TEXT, nullable=False),
        sa.Column("images", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("pk_host_report")),
    )
    op.create_index(op.f("ix_host_report_host_kind_subject_idx"), "host_report", ["host", "kind", "subject", "idx"])
    op.create_index(op.f("ix_host_report_kind_idx"), "host_report", ["kind", "idx"])
