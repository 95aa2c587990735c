"""Numbered migrations: number n makes schema n out of schema n - 1.

A migration never changes once it has been released. It imports nothing of ours, for what we import changes.
tests/unit/test_migrations.py brings a file of every earlier schema here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, insert, inspect, select, update

from runctl_controller.store.sql.migrations import m0001_first, m0002_leadership, m0003_forgetting
from runctl_controller.store.sql.tables import meta
from runctl_shared.errors import StoreUnusable

Migration = Callable[[Connection], None]
MIGRATIONS: tuple[Migration, ...] = (
    m0001_first.migrate,
    m0002_leadership.migrate,
    m0003_forgetting.migrate,
)


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Bring the database to the newest schema, each step in a transaction of its own.

    Raises StoreUnusable when it is newer than that; then nothing is changed.
    """
    while True:
        # Read under the write lock: another process may be at it too.
        with connection.begin():
            schema = schema_of(connection)
            if schema > len(migrations):
                raise StoreUnusable(
                    f"The state was written by a newer runctl (schema {schema},"
                    f" this one knows {len(migrations)}).",
                    "Use that version again, or another state folder with RUNCTL_STATE_DIR.",
                )
            if schema == len(migrations):
                return
            migrations[schema](connection)
            _set_schema(connection, schema + 1)


def schema_of(connection: Connection) -> int:
    """The number of the newest migration that was applied; 0 for an empty database."""
    if not inspect(connection).has_table(meta.name):
        return 0
    return int(connection.execute(select(meta.c.value).where(meta.c.name == "schema")).scalar_one())


def _set_schema(connection: Connection, schema: int) -> None:
    if schema == 1:
        connection.execute(insert(meta), {"name": "schema", "value": "1"})
    else:
        connection.execute(update(meta).where(meta.c.name == "schema"), {"value": str(schema)})
