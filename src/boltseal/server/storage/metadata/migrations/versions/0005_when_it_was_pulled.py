"""When a manifest of a mirrored repository was pulled last: data format 4."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0005"
down_revision = "0004"
change = Change.CONTRACTS


def upgrade() -> None:
    op.create_table(
        "pulled",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("pulled_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_pulled_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_pulled")),
        sqlite_with_rowid=False,
    )
