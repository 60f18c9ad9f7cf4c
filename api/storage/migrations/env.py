"""Runs migrations on the connection that :func:`api.storage.schema.upgrade` hands over."""

from alembic import context

from api.storage.tables import METADATA

context.configure(connection=context.config.attributes["connection"], target_metadata=METADATA, transactional_ddl=False)
context.run_migrations()
