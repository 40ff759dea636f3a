"""The layer chains of all manifests that were ever pushed: data format 7. Those of present manifests are pending."""

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

revision = "0008"
down_revision = "0007"
change = Change.CONTRACTS


def upgrade() -> None:
    op.create_table(
        "layer_chain",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("document", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_layer_chain_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_layer_chain")),
        sqlite_with_rowid=False,
    )
    pending = sa.text("document IS NULL")
    op.create_index(
        "ix_layer_chain_pending",
        "layer_chain",
        ["repository_id", "digest"],
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.execute(
        "INSERT INTO layer_chain (repository_id, digest, document) SELECT repository_id, digest, NULL FROM manifest"
    )
