"""The log of observations, how upstreams and their tags stand, and pushes on their way through the gate: data format 3."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0004"
down_revision = "0003"
change = Change.CONTRACTS


def upgrade() -> None:
    _log()
    op.create_table(
        "foreign_tag",
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("held_digest", sa.Text(), nullable=True),
        sa.Column("held_media_type", sa.Text(), nullable=True),
        sa.Column("held_size", sa.BigInteger(), nullable=True),
        sa.Column("held_us", sa.BigInteger(), nullable=True),
        sa.Column("gone_us", sa.BigInteger(), nullable=True),
        sa.Column("asked_us", sa.BigInteger(), nullable=False),
        sa.Column("entry_index", sa.BigInteger(), nullable=False),
        sa.Column("changes", sa.BigInteger(), nullable=False),
        sa.Column("changes_since_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("repository", "name", name=op.f("pk_foreign_tag")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "upstream",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("down_us", sa.BigInteger(), nullable=True),
        sa.Column("down_reason", sa.Text(), nullable=True),
        sa.Column("quota_limit", sa.BigInteger(), nullable=True),
        sa.Column("quota_remaining", sa.BigInteger(), nullable=True),
        sa.Column("quota_window_s", sa.BigInteger(), nullable=True),
        sa.Column("quota_source", sa.Text(), nullable=True),
        sa.Column("quota_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_upstream")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "reservation",
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reserved_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("repository", "tag", name=op.f("pk_reservation")),
        sqlite_with_rowid=False,
    )


def _log() -> None:
    op.create_table(
        "observation",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("repository", sa.Text(), nullable=False),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.Column("line", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("pk_observation")),
    )
    op.create_index(op.f("ix_observation_repository_tag_idx"), "observation", ["repository", "tag", "idx"])
    op.create_table(
        "observation_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("last_time_us", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("rules", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_observation_head")),
    )
    op.create_table(
        "observation_tile",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "idx", name=op.f("pk_observation_tile")),
    )
    op.create_table(
        "observation_checkpoint",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_observation_checkpoint")),
    )
    op.create_table(
        "observation_rotation",
        sa.Column("idx", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("receipt", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("idx", name=op.f("pk_observation_rotation")),
    )
