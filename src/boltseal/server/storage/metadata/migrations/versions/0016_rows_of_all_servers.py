"""What each server, or a folder, had for itself: doubts, statements of witnesses, requested rebuilds, users that existed, replicas.

A server adopts the files of the folder of keys and of its data folder when it starts.
"""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
revision = "0016"
down_revision = "0015"
change = Change.CONTRACTS  # an older server keeps a doubt in a file, which newer ones do not read


def upgrade() -> None:
    op.create_table(
        "users_existed",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users_existed")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "ledger_doubt",
        sa.Column("log", _TEXT, nullable=False),
        sa.Column("about", _TEXT, nullable=False),
        sa.Column("reason", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("log", "about", name=op.f("pk_ledger_doubt")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "witness_statement",
        sa.Column("witness", _TEXT, nullable=False),
        sa.Column("stated", _TEXT, nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("witness", name=op.f("pk_witness_statement")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "requested_rebuild",
        sa.Column("image", _TEXT, nullable=False),
        sa.Column("base", _TEXT, nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("summary", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("image", "base", name=op.f("pk_requested_rebuild")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "replica",
        sa.Column("id", _TEXT, nullable=False),
        sa.Column("beat", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("stale_ms", sa.BigInteger(), nullable=False),
        sa.Column("version", _TEXT, nullable=False),
        sa.Column("revision", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replica")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "schema_support",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("oldest", _TEXT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_support")),
        sqlite_with_rowid=False,
    )
    op.execute("INSERT INTO users_existed (id) SELECT 1 WHERE EXISTS (SELECT 1 FROM account)")
