"""Alembic runs this. It applies the revisions to the store's connection, inside the store's transaction."""

from alembic import context

from serving.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
