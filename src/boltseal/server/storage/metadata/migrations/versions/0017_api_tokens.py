"""API tokens, service accounts, the last logins of users, and the audit log."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0017"
down_revision = "0016"
change = Change.EXPANDS  # an older server accepts no API token, and knows no service account


def upgrade() -> None:
    op.create_table(
        "service_account",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_service_account")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "last_login",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("login_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_last_login")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "api_token",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("mac", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("kind", _TEXT, nullable=False),
        sa.Column("scope", _TEXT, nullable=False),
        sa.Column("description", _TEXT, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("created_by", _TEXT, nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.Column("used_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_api_token_owner"), "api_token", ["owner"])
    op.create_table(
        "audit_event",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("detail", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("pk_audit_event")),
    )
