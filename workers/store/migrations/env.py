"""Alembic's door: migrates over the connection that `migrate.py` hands in."""

from alembic import context

from workers.store.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=connection.dialect.name == "sqlite")
context.run_migrations()
