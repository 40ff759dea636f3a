"""Sessions of pipelines that logged in with an ID token, and their refresh tokens."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0018"
down_revision = "0017"
change = Change.EXPANDS


def upgrade() -> None:
    op.create_table(
        "pipeline_session",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("issuer", _TEXT, nullable=False),
        sa.Column("claims", _TEXT, nullable=False),
        sa.Column("payload_sha256", _TEXT, nullable=False),
        sa.Column("opened_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pipeline_session")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_pipeline_session_ends_us"), "pipeline_session", ["ends_us"])
    op.create_table(
        "pipeline_refresh",
        sa.Column("token_sha256", _TEXT, nullable=False),
        sa.Column("session", _TEXT, nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("token_sha256", name=op.f("pk_pipeline_refresh")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_pipeline_refresh_session"), "pipeline_refresh", ["session"])
    op.create_index(op.f("ix_pipeline_refresh_ends_us"), "pipeline_refresh", ["ends_us"])
