"""Alembic's entry: it runs the revisions on the connection that sql/migrate.py hands over."""

from alembic import context

from taskmill.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=False,
    transactional_ddl=False,
)
context.run_migrations()
