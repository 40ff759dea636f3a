"""Alembic's entry: runs the revisions on the connection that `storage.migrate` hands over, one transaction for all."""

from alembic import context

from boltseal.storage.schema import METADATA

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=METADATA, transactional_ddl=True, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
