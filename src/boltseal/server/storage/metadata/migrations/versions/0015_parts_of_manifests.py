"""Each manifest gets another object, which states which of its parts its repository has, and whenever these change.

The cleanup writes it within an hour. The former object is kept for a day: it has the manifest's bytes until then.
"""

import time

import sqlalchemy as sa
from alembic import op

from boltseal.server.storage.metadata.schema_support import Change

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_DAY_US = 24 * 3600 * 1_000_000
revision = "0015"
down_revision = "0014"
change = Change.CONTRACTS


def upgrade() -> None:
    op.create_table(
        "changed_part",
        sa.Column("repository_id", sa.Integer(), nullable=False),
        sa.Column("digest", _TEXT, nullable=False),
        sa.ForeignKeyConstraint(["repository_id"], ["repository.id"], name=op.f("fk_changed_part_repository_id")),
        sa.PrimaryKeyConstraint("repository_id", "digest", name=op.f("pk_changed_part")),
        sqlite_with_rowid=False,
    )
    mark = sa.text(
        "INSERT INTO dead_key (key, due_us) SELECT key, :due_us FROM manifest_object WHERE true ON CONFLICT (key) DO NOTHING"
    )
    op.execute(mark.bindparams(sa.bindparam("due_us", time.time_ns() // 1000 + _DAY_US, sa.BigInteger())))
    op.execute("DELETE FROM manifest_object")
