"""The spool as a SQLite file on the machine's own disk."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from runctl_agent.spool.port import Pending
from runctl_agent.spool.reserve import Reserve
from runctl_shared.messages.base import Body

T = TypeVar("T")

# FULL: an event that was reported must survive the power cut of a machine whose disk survives it.
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS state (
  id INTEGER PRIMARY KEY CHECK (id = 1), data BLOB NOT NULL, last INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS events (sequence INTEGER PRIMARY KEY, kind TEXT NOT NULL, data BLOB NOT NULL);
"""


class SqliteSpool:
    """See Spool. `encode(body, sequence, at)` makes the message of an event. Some room is kept on the disk
    beside it, and given to the first commit that finds none."""

    def __init__(self, path: Path, encode: Callable[[Body, int, float], bytes]) -> None:
        path.touch(mode=0o600, exist_ok=True)
        os.chmod(path, 0o600)
        self._encode = encode
        self._reserve = Reserve(path.with_name(path.name + ".reserve"))
        self._db, self._last = self._with_room(lambda: _open(path))
        self._reserve.hold()

    def load(self) -> bytes | None:
        with _as_os_error():
            row = self._db.execute("SELECT data FROM state").fetchone()
        return bytes(row[0]) if row else None

    def commit(self, state: bytes, reports: Sequence[Body], at: float) -> Sequence[Pending]:
        first = self._last + 1
        new = [
            Pending(number, type(report).__name__, self._encode(report, number, at))
            for number, report in enumerate(reports, first)
        ]
        last = self._last + len(new)
        self._with_room(lambda: self._write(state, new, last))
        self._last = last
        return new

    def pending(self, after: int = 0, limit: int = 500) -> Sequence[Pending]:
        with _as_os_error():
            rows = self._db.execute(
                "SELECT sequence, kind, data FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (after, limit),
            ).fetchall()
        return [Pending(*row) for row in rows]

    def forget(self, through: int) -> None:
        with _as_os_error():
            self._db.execute("DELETE FROM events WHERE sequence <= ?", (through,))

    @property
    def last_sequence(self) -> int:
        return self._last

    @property
    def empty(self) -> bool:
        with _as_os_error():
            return self._db.execute("SELECT 1 FROM events LIMIT 1").fetchone() is None

    def close(self) -> None:
        self._db.close()

    def _write(self, state: bytes, new: Sequence[Pending], last: int) -> None:
        with _as_os_error():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany(
                    "INSERT INTO events VALUES (?, ?, ?)", [(p.sequence, p.kind, p.data) for p in new]
                )
                self._db.execute("INSERT OR REPLACE INTO state VALUES (1, ?, ?)", (state, last))
                self._db.execute("COMMIT")
            except BaseException:
                # Left open by a COMMIT that found no room, it would keep every later one from beginning.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _with_room(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError:
            if not self._reserve.release():
                raise
            return act()


def _open(path: Path) -> tuple[sqlite3.Connection, int]:
    """The database, and the number of its newest event."""
    with _as_os_error():
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.executescript(_SCHEMA)
            row = db.execute("SELECT last FROM state").fetchone()
        except BaseException:
            db.close()
            raise
    return db, int(row[0]) if row else 0


@contextmanager
def _as_os_error() -> Iterator[None]:
    """What SQLite raises when the disk is full or failing is no OSError by itself."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise OSError(f"the spool cannot be used: {error}") from error
