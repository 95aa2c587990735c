"""A process that is stopped while it holds what everybody needs is ended; no other ever is."""

from __future__ import annotations

import fcntl
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl_controller.service.stuck import end_if_stuck, holds_one
from runctl_testing import forked

pytestmark = pytest.mark.skipif(not Path("/proc/locks").exists(), reason="only Linux tells who holds a lock")
Stopped = Callable[[Callable[[], object]], int]


@pytest.fixture
def stopped() -> Iterator[Stopped]:
    """Starts a process that does something and stands still then."""
    children: list[int] = []

    def start(act: Callable[[], object]) -> int:
        def body() -> None:
            kept = act()
            os.kill(os.getpid(), signal.SIGSTOP)
            signal.pause()
            del kept

        children.append(forked.start(body))
        os.waitpid(children[-1], os.WUNTRACED)
        return children[-1]

    yield start
    for child in children:
        os.kill(child, signal.SIGKILL)
        forked.wait(child)


def _database(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("CREATE TABLE IF NOT EXISTS t (x)")
    return db


def _writes(path: Path) -> sqlite3.Connection:
    db = _database(path)
    db.execute("BEGIN IMMEDIATE")
    return db


def test_one_in_the_midst_of_a_transaction_is_ended_and_others_can_write(
    stopped: Stopped, tmp_path: Path
) -> None:
    """Nobody could ever lead again: SQLite's lock is held by a process that never goes on."""
    path = tmp_path / "a.db"
    _database(path).close()
    child = stopped(lambda: _writes(path))
    files = [path, Path(f"{path}-shm")]
    db = sqlite3.connect(path, timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        db.execute("BEGIN IMMEDIATE")
    assert end_if_stuck(child, files, lambda: True)
    db.execute("BEGIN IMMEDIATE")
    db.execute("ROLLBACK")
    db.close()


def test_one_that_holds_nothing_is_left_alone(stopped: Stopped, tmp_path: Path) -> None:
    """Ending whoever is slow would make every hiccup a crash."""
    path = tmp_path / "a.db"
    child = stopped(lambda: _database(path))
    assert not holds_one(child, [path, Path(f"{path}-shm"), tmp_path / "missing"])
    assert not end_if_stuck(child, [path], lambda: True)
    os.kill(child, 0)


def test_a_folder_or_file_that_is_locked_counts_too(stopped: Stopped, tmp_path: Path) -> None:
    """The embedded bus and the local provider lock by flock: nobody could open the bus, or end a machine."""

    def lock() -> int:
        folder = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(folder, fcntl.LOCK_EX)
        return folder

    child = stopped(lock)
    assert holds_one(child, [tmp_path])
    assert not holds_one(os.getpid(), [tmp_path])


def test_a_process_that_is_not_the_one_meant_any_more_is_not_ended(stopped: Stopped, tmp_path: Path) -> None:
    """A process id is given again: a stranger would be killed."""
    path = tmp_path / "a.db"
    child = stopped(lambda: _writes(path))
    assert not end_if_stuck(child, [Path(f"{path}-shm")], lambda: False)
    os.kill(child, 0)
