"""Schema 3: a machine's intervals are found without looking through everybody's, when a run is forgotten."""

from __future__ import annotations

from sqlalchemy import Connection, text


def migrate(connection: Connection) -> None:
    connection.execute(text("CREATE INDEX intervals_of_machine ON intervals (machine)"))
