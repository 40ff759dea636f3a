"""The outbox, upload sessions, failed logins, users and unfinished purges in the database: data format 5."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0006"
down_revision = "0005"
change = Change.CONTRACTS


def upgrade() -> None:
    _outbox()
    _uploads()
    _failed_logins()
    _accounts()
    _purged_blobs()


def _outbox() -> None:
    op.create_table(
        "outbox",
        sa.Column("receiver", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("minor", sa.Boolean(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("next_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("receiver", "event_id", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_receiver_at_us"), "outbox", ["receiver", "at_us"])
    op.create_table(
        "outbox_cursor",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_outbox_cursor")),
        sqlite_with_rowid=False,
    )


def _uploads() -> None:
    op.create_table(
        "upload_session",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("begun_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_upload_session")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_upload_session_owner_expires_us"), "upload_session", ["owner", "expires_us"])


def _failed_logins() -> None:
    op.create_table(
        "failed_login",
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("address", name=op.f("pk_failed_login")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_failed_login_last_us"), "failed_login", ["last_us"])


def _accounts() -> None:
    op.create_table(
        "account",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("encrypted_hash", sa.Text(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_account")),
        sqlite_with_rowid=False,
    )


def _purged_blobs() -> None:
    op.create_table(
        "purged_blob",
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("purged_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_purged_blob")),
        sqlite_with_rowid=False,
    )
