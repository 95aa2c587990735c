"""One opening of the bus file: our connection, our doorbell, and our name among the others."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator

from runctl_shared.bus.embedded.doors import Doors
from runctl_shared.bus.embedded.store import APPLICATION, SCHEMA, VERSION, WAITING, Store
from runctl_shared.bus.port import BusRefused, BusUnavailable
from runctl_shared.draw import new_id

LOCK_PATIENCE = 5.0
"""Seconds to wait for another process to finish its transaction."""
_WAL_BYTES = 16 << 20


class Session:
    """Belongs to the thread that made it. Raises sqlite3.Error, OSError or BusError."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.doors = Doors(path + ".d")
        self.link = new_id("link", 16)
        self.suspects: set[str] = set()
        """Links that may have died: looked at within the next transaction."""
        self.look_around = False
        """Whether everybody is to be suspected."""
        self._watched: dict[str, int] = {}
        self._consumers = 0
        with self.doors.locked():
            self._file = _create(path)
            self._db = _open(path)
        self.store = Store(self._db)
        self.bell = -1
        try:
            # The bell hangs before the name is known, and under the lock of the transaction, in which alone
            # bells are taken down: nobody can take us for dead in between.
            with self.transaction():
                self.bell = self.doors.hang(self.link)
                self.store.add_link(self.link)
                self.suspects = (self.store.links() | set(self.doors.names())) - {self.link}
        except BaseException:
            self.abandon()
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Store]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self.store
            self._db.execute("COMMIT")
        except BaseException:
            self.store.touched.clear()
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def intact(self) -> bool:
        """Whether the file is still the one that everybody else opens, and our name still in it."""
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            return False
        return (now.st_dev, now.st_ino) == self._file and self.store.has_link(self.link)

    def new_consumer(self) -> str:
        self._consumers += 1
        return f"{self.link}.{self._consumers}"

    # ------------------------------------------------------------ inside a transaction

    def bury(self) -> None:
        """Free what the dead among the suspects held."""
        if not self.store.has_link(self.link):
            # Somebody found no bell of ours: a hand removed it. What we held is in other hands.
            raise BusUnavailable(f"The doorbell in {self._path}.d has been removed.", "A new one is made.")
        if self.look_around:
            self.suspects |= self.store.links() - {self.link}
            self.look_around = False
        while self.suspects:
            link = self.suspects.pop()
            if not self.doors.answers(link):
                self.store.drop_link(link)
                self.doors.take_down(link)

    def ahead_of(self, consumer: str, queue: str) -> str | None:
        """The link of the consumer whose turn it is at `queue`, if that is not `consumer`."""
        first = self.store.active(queue)
        return None if first is None or first[0] == consumer else first[1]

    def put_others_out(self, queues: Iterable[str]) -> None:
        """No consumer of these queues but ours is to have a turn any more: a stopped process would have it
        for ever. What it holds goes back."""
        for queue in queues:
            for consumer in self.store.consumers(queue):
                if not consumer.startswith(f"{self.link}."):
                    self.store.drop_consumer(consumer)

    def bells(self) -> set[str]:
        """Whom to ring once this transaction is committed."""
        self.store.trim()
        first = (self.store.active(queue) for queue in self.store.touched)
        links = {found[1] for found in first if found is not None} - {self.link}
        self.store.touched.clear()
        return links

    # ------------------------------------------------------------ outside

    def ring(self, links: Iterable[str]) -> None:
        self.suspects.update(link for link in links if not self.doors.ring(link))

    def watch(self, links: set[str]) -> dict[int, str]:
        """Watch exactly these for their death: descriptors that then poll as POLLERR, and whose they are."""
        for gone in self._watched.keys() - links:
            os.close(self._watched.pop(gone))
        for link in links - self._watched.keys():
            bell = self.doors.watch(link)
            if bell is None:
                self.suspects.add(link)
            elif bell >= 0:
                self._watched[link] = bell
        return {bell: link for link, bell in self._watched.items()}

    def leave(self) -> None:
        """Say goodbye: give everything back and tell those who are next."""
        with self.transaction() as store:
            store.drop_link(self.link)
            bells = self.bells()
        self.ring(bells)

    def abandon(self) -> None:
        """Close everything, whatever state it is in. What `leave` did not give back the others will find."""
        self.watch(set())
        if self.bell >= 0:
            os.close(self.bell)
            self.bell = -1
        with contextlib.suppress(OSError):
            self.doors.take_down(self.link)
        with contextlib.suppress(sqlite3.Error):
            self._db.close()


def _create(path: str) -> tuple[int, int]:
    """Make sure that the file is there and nobody else's to read; returns its identity."""
    # Never open a file that is there: closing it again would drop the locks that SQLite, elsewhere in this
    # process, holds on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    found = os.stat(path)
    return found.st_dev, found.st_ino


def _open(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_PATIENCE, isolation_level=None)
    try:
        empty = _is_new(db, path)
        # WAL: a writer never waits for readers, and a commit is one append. NORMAL: a commit is handed to
        # the system but not flushed to the disk. It outlives every process, however that ends; a power cut
        # or a crash of the system may undo the last commits, but never damages the file. Then the whole
        # machine was down, training included, and queues are only transport: events are sent again until the
        # controller's own store has them. To flush at each confirm would cost milliseconds, for nothing.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        if db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            db.execute("PRAGMA journal_mode = WAL")
        if empty:
            db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        else:
            db.execute(WAITING)
    except BaseException:
        db.close()
        raise
    return db


def _is_new(db: sqlite3.Connection, path: str) -> bool:
    """Whether there are no tables yet. Raises BusRefused, having changed nothing, when they are not ours."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    application = db.execute("PRAGMA application_id").fetchone()[0]
    empty = db.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    if empty:
        return True
    if application != APPLICATION:
        raise BusRefused(f"{path} is a database of something else.", "Name another file for the bus.")
    if version != VERSION:
        raise BusRefused(
            f"The bus file {path} was made by another version of runctl ({version}; we need {VERSION}).",
            "Stop that one; if it is no longer used, move the file away.",
        )
    return False
