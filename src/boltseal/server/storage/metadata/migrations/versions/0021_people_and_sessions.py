"""People who log in by an identity provider, and the sessions of pages."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0021"
down_revision = "0020"
change = Change.EXPANDS


def upgrade() -> None:
    op.create_table(
        "person",
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("issuer", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("display_name", _TEXT, nullable=False),
        sa.Column("member_of", _TEXT, nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.Column("mac", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_person")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_person_issuer_subject")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "page_session",
        sa.Column("cookie_sha256", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("login", _TEXT, nullable=False),
        sa.Column("address", _TEXT, nullable=False),
        sa.Column("began_us", sa.BigInteger(), nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.Column("seen_us", sa.BigInteger(), nullable=False),
        sa.Column("mac", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("cookie_sha256", name=op.f("pk_page_session")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_page_session_owner"), "page_session", ["owner"])
    op.create_index(op.f("ix_page_session_ends_us"), "page_session", ["ends_us"])
    op.create_table(
        "used_state",
        sa.Column("state_sha256", _TEXT, nullable=False),
        sa.Column("ends_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("state_sha256", name=op.f("pk_used_state")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_used_state_ends_us"), "used_state", ["ends_us"])
