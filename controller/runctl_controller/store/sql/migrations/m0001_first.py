"""Schema 1: runs, attempts, machines, the ledger, the outbox, timers, stories, heartbeats."""

from __future__ import annotations

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    insert,
    text,
)

_ALL = MetaData()


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False)


def _integer(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _flag(name: str) -> tuple[Column[int], CheckConstraint]:
    return _integer(name), CheckConstraint(f"{name} IN (0, 1)")


def _time(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, Double, nullable=nullable)


def _number() -> Column[int]:
    """A number that is given by the database and never given again."""
    return Column("id", Integer, primary_key=True, autoincrement=True)


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """An index of the rows that meet a condition."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


_META = Table("meta", _ALL, _text("name"), _text("value"), PrimaryKeyConstraint("name"))

Table(
    "runs",
    _ALL,
    _text("id"),
    _text("name"),
    _text("project"),
    _text("state"),
    _time("created_at"),
    *_flag("is_open"),
    *_flag("is_busy"),
    _text("spec"),
    _text("data"),
    PrimaryKeyConstraint("id"),
    CheckConstraint("is_open <= is_busy"),
    Index("runs_by_age", "created_at", "id"),
    Index("runs_of_project", "project", "created_at", "id"),
    # Not a partial one: the one above would be taken instead of it.
    Index("runs_open_of_project", "project", "is_open", "created_at", "id"),
    Index("runs_of_name", "name", "created_at", "id"),
    # These stay small however many runs have ended.
    _partial("runs_open", "created_at", "id", where="is_open = 1"),
    _partial("runs_busy", "created_at", "id", where="is_busy = 1"),
)

Table(
    "attempts",
    _ALL,
    _text("run"),
    _integer("number"),
    _text("agent"),
    _text("state"),
    *_flag("trains"),
    _text("data"),
    PrimaryKeyConstraint("run", "number"),
    UniqueConstraint("agent"),
    ForeignKeyConstraint(["run"], ["runs.id"]),
    CheckConstraint("number >= 1"),
    # Two machines never train the same run.
    _partial("attempts_one_trains", "run", where="trains = 1", unique=True),
)

Table(
    "machines",
    _ALL,
    _text("id"),
    _text("run"),
    _integer("position"),
    _integer("attempt"),
    _text("provider"),
    _text("token"),
    _text("state"),
    _text("launch_order"),
    _text("data"),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("run", "position"),
    # The same token is the same machine, for ever.
    UniqueConstraint("token"),
    ForeignKeyConstraint(["run", "attempt"], ["attempts.run", "attempts.number"]),
)

Table(
    "intervals",
    _ALL,
    _text("run"),
    _integer("position"),
    _text("machine"),
    _integer("attempt"),
    _text("used_for"),
    _time("began"),
    _time("ended", nullable=True),
    Column("price", Double, nullable=False),
    PrimaryKeyConstraint("run", "position"),
    ForeignKeyConstraint(["machine"], ["machines.id"]),
    CheckConstraint("ended >= began"),
    CheckConstraint("price >= 0"),
    # A machine is paid for once at a time.
    _partial("intervals_one_open", "machine", where="ended IS NULL", unique=True),
)

Table("outbox", _ALL, _number(), _text("run"), _text("kind"), _text("data"), sqlite_autoincrement=True)

Table(
    "timers",
    _ALL,
    _text("run"),
    _text("key"),
    _time("at"),
    PrimaryKeyConstraint("run", "key"),
    Index("timers_by_time", "at", "run", "key"),
)

Table(
    "story",
    _ALL,
    _number(),
    _text("run"),
    _time("at"),
    _integer("attempt"),
    _text("kind"),
    _text("actor"),
    _text("data"),
    Index("story_of_run", "run", "id"),
    sqlite_autoincrement=True,
)

Table("beats", _ALL, _text("agent"), _time("at"), _text("data"), PrimaryKeyConstraint("agent"))


def migrate(connection: Connection) -> None:
    _ALL.create_all(connection, checkfirst=False)
    connection.execute(insert(_META), {"name": "epoch", "value": "0"})
