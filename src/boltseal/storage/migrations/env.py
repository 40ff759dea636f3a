"""Alembic's entry: runs the revisions on the connection that `storage.migrate` hands over, in its transaction."""

from alembic import context

from boltseal.storage.schema import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, transactional_ddl=False, render_as_batch=True)
context.run_migrations()
