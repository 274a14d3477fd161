"""Run by Alembic: applies the revisions to the connection the store hands over, inside the store's transaction."""

from alembic import context

from serving.ledger.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
