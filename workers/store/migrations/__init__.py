"""The history of the datastore's tables, for Alembic."""
