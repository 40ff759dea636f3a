"""Refused pushes: who tried to push what to which tag, and why it was refused."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0019"
down_revision = "0018"
change = Change.EXPANDS


def upgrade() -> None:
    op.create_table(
        "refused_push",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("repository", _TEXT, nullable=False),
        sa.Column("tag", _TEXT, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.Column("pushed", _TEXT, nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("address", _TEXT, nullable=False),
        sa.Column("extra", _TEXT, nullable=False),
        sa.Column("free", _TEXT, nullable=False),
        sa.Column("first_us", sa.BigInteger(), nullable=False),
        sa.Column("last_us", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refused_push")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_refused_push_last_us_id"), "refused_push", ["last_us", "id"])
    op.create_index(op.f("ix_refused_push_repository_last_us_id"), "refused_push", ["repository", "last_us", "id"])
    op.create_index(op.f("ix_refused_push_owner_last_us_id"), "refused_push", ["owner", "last_us", "id"])
