"""All that only SQLite understands: the file, how it is opened, what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, NullPool, TableClause, create_engine, event
from sqlalchemy.dialects.sqlite import Insert, insert

from runctl_shared.errors import StoreUnusable

PRAGMAS = (
    "PRAGMA busy_timeout = 5000",  # milliseconds
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # this is the ledger: what is committed survives a power cut
    "PRAGMA foreign_keys = ON",
)
CHECKED_WHOLE = 64 << 20
"""Bytes. A file up to this size is read through when it is opened (a tenth of a second); of a larger one,
damage shows when the damaged part is read."""

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_FORBIDDEN = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)


def prepare(path: Path) -> None:
    """Make the file (mode 600) if there is none; else see that it is a whole one of ours, without changing
    it. Raises StoreUnusable."""
    try:
        if not _make(path):
            if not path.is_file():
                raise _unwritable(path, "it is not a file")
            _check(path)
            for each in filter(Path.exists, (path, _beside(path, "wal"), _beside(path, "shm"))):
                each.chmod(0o600)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    except sqlite3.Error as error:
        raise unusable(error, path) from error


def _make(path: Path) -> bool:
    # Never open a file that exists: to close it again would drop the locks that SQLite holds in this process.
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}-{what}")


def _check(path: Path) -> None:
    # Immutable: not even the files beside it are made. But what a killed process left there belongs to it.
    how = "mode=ro" if _beside(path, "wal").exists() else "immutable=1"
    with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{how}", uri=True)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if path.stat().st_size <= CHECKED_WHOLE:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _damaged(path, verdict.splitlines()[-1])
    if tables and "meta" not in tables:
        raise StoreUnusable(
            f"{path} is a database, but none of runctl's.",
            "Move it away, or choose another state folder with RUNCTL_STATE_DIR.",
        )


def engine(path: Path) -> Engine:
    """Connections to the file. Every transaction holds the write lock from its beginning, so that what it
    reads stays true until it has written; no other process can make it fail half-way."""
    made = create_engine(
        URL.create("sqlite", database=str(path)),
        poolclass=NullPool,
        connect_args={"check_same_thread": False, "isolation_level": None},
    )

    def connected(db: Any, _record: object) -> None:
        for pragma in PRAGMAS:
            db.execute(pragma).close()

    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(made, "connect", connected)
    event.listen(made, "begin", begun)
    return made


def glance(path: Path, query: str) -> tuple[Any, ...] | None:
    """The first row of a query, by a connection of its own that waits for nobody. None: it cannot be told."""
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=0)
        ) as db:
            found: tuple[Any, ...] | None = db.execute(query).fetchone()
            return found
    except sqlite3.Error:
        return None


def upsert(table: TableClause, *keys: str) -> Insert:
    """Insert a row, or replace the one with the same `keys`. (PostgreSQL has the same, by another import.)"""
    new = insert(table)
    return new.on_conflict_do_update(
        index_elements=keys,
        set_={name: new.excluded[name] for name in table.c.keys() if name not in keys},  # noqa: SIM118
    )


def unusable(error: BaseException | None, path: Path) -> StoreUnusable:
    """What the database's error means for the user."""
    code = getattr(error, "sqlite_errorcode", None)
    kind = None if code is None else code & 0xFF  # the rest of it says in which of SQLite's parts
    if kind in _DAMAGED:
        return _damaged(path, str(error))
    if kind in _FORBIDDEN:
        return _unwritable(path, str(error))
    if kind == sqlite3.SQLITE_FULL:
        return StoreUnusable(
            f"The disk of the state file {path} is full.", "Make room on it: nothing is stored until then."
        )
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreUnusable(
            f"Another process keeps the state file {path} locked.", "End it, then try again."
        )
    if kind == sqlite3.SQLITE_CONSTRAINT:
        return StoreUnusable(
            f"A change would break a rule of the state, so it was not made: {error}.",
            "This is a bug of runctl: please report it.",
        )
    return StoreUnusable(f"The state file {path} failed: {error}.", "Look at its disk, then try again.")


def _damaged(path: Path, why: str) -> StoreUnusable:
    return StoreUnusable(
        f"The state file {path} is damaged ({why}).",
        "Put a backup in its place; or move it away, with its -wal and -shm files, to begin without any runs"
        " (checkpoints stay where they are).",
    )


def _unwritable(path: Path, why: str) -> StoreUnusable:
    return StoreUnusable(
        f"The state file {path} cannot be written to: {why}.",
        "Choose another folder with RUNCTL_STATE_DIR, or mend its permissions.",
    )
