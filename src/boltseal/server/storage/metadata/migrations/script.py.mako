"""${message}"""

from alembic import op
import sqlalchemy as sa

from boltseal.server.storage.metadata.schema_support import Change

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
change = Change.EXPANDS  # or CONTRACTS: then set schema_support.OLDEST_SERVER

def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
