"""Alembic's entry: runs the revisions on the connection that `server.storage.metadata.migrate` hands over, in its transaction."""

from alembic import context

from boltseal.server.storage.metadata.schema import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, transactional_ddl=False, render_as_batch=True)
context.run_migrations()
