"""Schema 2: the epoch becomes a lease that a standby can see standing still."""

from __future__ import annotations

from sqlalchemy import CheckConstraint, Column, Connection, Double, Integer, MetaData, Table, insert, text

_ALL = MetaData()
_LEADERSHIP = Table(
    "leadership",
    _ALL,
    Column("id", Integer, primary_key=True),
    Column("epoch", Integer, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("since", Double, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("renewals", Integer, nullable=False),
    CheckConstraint("id = 1"),  # there is but one
)


def migrate(connection: Connection) -> None:
    _ALL.create_all(connection, checkfirst=False)
    epoch = connection.execute(text("SELECT value FROM meta WHERE name = 'epoch'")).scalar_one()
    row = {"id": 1, "epoch": int(epoch), "pid": 0, "since": 0.0, "seconds": 0.0, "renewals": 0}
    connection.execute(insert(_LEADERSHIP), row)
    # A controller of before looks there for its epoch, finds none, and writes no more.
    connection.execute(text("DELETE FROM meta WHERE name = 'epoch'"))
