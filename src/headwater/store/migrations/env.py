"""Alembic's entry: runs the migrations on the connection that `store/migrate.py` hands over.

The connection is inside a transaction already; nothing here begins or commits one.
"""

from alembic import context

from headwater.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()
