"""The index of tags that are settling: data format 6."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    settling = sa.text("sealed_digest IS NULL AND keep_until_us IS NOT NULL")
    op.create_index("ix_tag_settling", "tag", ["keep_until_us"], sqlite_where=settling, postgresql_where=settling)
