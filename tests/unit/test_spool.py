"""The spool: state and events change together or not at all, also when the process is killed in between."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl_agent.spool.memory import MemoryDisk, MemorySpool
from runctl_agent.spool.port import Pending, Spool
from runctl_agent.spool.reserve import SIZE, Reserve
from runctl_agent.spool.sqlite import SqliteSpool
from runctl_shared.messages.base import Body
from runctl_shared.messages.events import NoticeWithdrawn, Staged
from runctl_testing import forked
from runctl_testing.eventually import eventually

STAGED = Staged(seconds=1.0)


def message(body: Body, sequence: int, at: float) -> bytes:
    return f"{type(body).__name__} {sequence} {at}".encode()


def told(sequence: int, at: float = 5.0, kind: str = "Staged") -> Pending:
    return Pending(sequence, kind, f"{kind} {sequence} {at}".encode())


class Disk:
    """What outlives the process; `open` is the process that starts."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._memory = MemoryDisk() if kind == "memory" else None
        self.path = folder / "spool.db"
        self._open: list[Spool] = []

    def open(self, encode: Callable[[Body, int, float], bytes] = message) -> Spool:
        spool: Spool = (
            SqliteSpool(self.path, encode) if self._memory is None else MemorySpool(encode, self._memory)
        )
        self._open.append(spool)
        return spool

    def close(self) -> None:
        for spool in self._open:
            spool.close()


@pytest.fixture(params=["sqlite", "memory"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(request.param, tmp_path)
    yield disk
    disk.close()


class TestBothSpools:
    def test_a_fresh_one_is_empty(self, disk: Disk) -> None:
        spool = disk.open()
        assert (spool.load(), spool.last_sequence, spool.empty, list(spool.pending())) == (None, 0, True, [])

    def test_events_are_numbered_from_one_without_gaps(self, disk: Disk) -> None:
        spool = disk.open()
        assert list(spool.commit(b"a", [STAGED, NoticeWithdrawn(notice="n")], 5.0)) == [
            told(1),
            told(2, kind="NoticeWithdrawn"),
        ]
        assert list(spool.commit(b"b", [STAGED], 6.0)) == [told(3, 6.0)]
        assert [p.sequence for p in spool.pending()] == [1, 2, 3]
        assert (spool.last_sequence, spool.empty) == (3, False)

    def test_a_state_without_events_is_stored_too(self, disk: Disk) -> None:
        spool = disk.open()
        spool.commit(b"a", [], 5.0)
        spool.commit(b"b\0\xff", [], 5.0)
        assert (spool.load(), spool.empty) == (b"b\0\xff", True)

    def test_the_next_process_finds_everything(self, disk: Disk) -> None:
        disk.open().commit(b"a", [STAGED, STAGED], 5.0)
        spool = disk.open()
        assert spool.load() == b"a"
        assert list(spool.pending()) == [told(1), told(2)]
        assert list(spool.commit(b"b", [STAGED], 5.0)) == [told(3)]

    def test_numbers_go_on_after_everything_was_acknowledged(self, disk: Disk) -> None:
        """Else the controller would take new events for ones that it has committed."""
        spool = disk.open()
        spool.commit(b"a", [STAGED, STAGED], 5.0)
        spool.forget(2)
        assert (spool.empty, spool.last_sequence) == (True, 2)
        spool = disk.open()
        assert spool.last_sequence == 2
        assert list(spool.commit(b"b", [STAGED], 5.0)) == [told(3)]

    def test_pending_is_a_window(self, disk: Disk) -> None:
        spool = disk.open()
        spool.commit(b"a", [STAGED] * 10, 5.0)
        assert [p.sequence for p in spool.pending(3, 4)] == [4, 5, 6, 7]
        assert list(spool.pending(10)) == []
        assert list(spool.pending(0, 0)) == []

    def test_forgetting_is_up_to_a_number_and_may_be_repeated(self, disk: Disk) -> None:
        spool = disk.open()
        spool.commit(b"a", [STAGED] * 3, 5.0)
        spool.forget(2)
        spool.forget(2)
        spool.forget(0)
        assert [p.sequence for p in spool.pending()] == [3]
        spool.forget(99)
        assert (spool.empty, spool.last_sequence) == (True, 3)

    def test_what_cannot_be_encoded_changes_nothing(self, disk: Disk) -> None:
        def picky(body: Body, sequence: int, at: float) -> bytes:
            if isinstance(body, NoticeWithdrawn):
                raise ValueError("no")
            return message(body, sequence, at)

        spool = disk.open(picky)
        spool.commit(b"a", [STAGED], 5.0)
        with pytest.raises(ValueError, match="no"):
            spool.commit(b"b", [STAGED, NoticeWithdrawn(notice="n")], 5.0)
        assert (spool.load(), spool.last_sequence, len(spool.pending())) == (b"a", 1, 1)
        assert list(spool.commit(b"c", [STAGED], 5.0)) == [told(2)]


class TestSqlite:
    def test_nobody_else_can_read_it(self, tmp_path: Path) -> None:
        spool = SqliteSpool(tmp_path / "spool.db", message)
        spool.commit(b"a", [STAGED], 5.0)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        spool.close()
        assert set(modes.values()) == {0o600}, modes

    def test_a_full_disk_is_an_os_error_and_changes_nothing(self, tmp_path: Path) -> None:
        spool = SqliteSpool(tmp_path / "spool.db", message)
        spool.commit(b"a", [STAGED], 5.0)
        spool._db.execute("PRAGMA max_page_count = 4").fetchone()
        with pytest.raises(OSError, match="full"):
            spool.commit(b"x" * 100_000, [STAGED], 5.0)
        assert (spool.load(), spool.last_sequence, len(spool.pending())) == (b"a", 1, 1)
        spool._db.execute("PRAGMA max_page_count = 1000000").fetchone()
        assert list(spool.commit(b"b", [STAGED], 5.0)) == [told(2)]
        spool.close()

    def test_the_first_commit_on_a_full_disk_gets_the_room_that_was_kept_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spool = SqliteSpool(tmp_path / "spool.db", message)
        kept = tmp_path / "spool.db.reserve"
        assert kept.stat().st_blocks * 512 >= SIZE
        spool.commit(b"a", [STAGED], 5.0)
        spool._db.execute("PRAGMA max_page_count = 4").fetchone()
        real = Reserve.release

        def release(reserve: Reserve) -> bool:
            """As good as room: SQLite may grow the file again."""
            spool._db.execute("PRAGMA max_page_count = 1000000").fetchone()
            return real(reserve)

        monkeypatch.setattr(Reserve, "release", release)
        assert list(spool.commit(b"x" * 100_000, [STAGED], 5.0)) == [told(2)]
        assert not kept.exists()
        spool.close()
        SqliteSpool(tmp_path / "spool.db", message).close()
        assert kept.exists(), "the next start keeps some back again"

    def test_without_room_to_keep_back_it_works_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*args: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        spool = SqliteSpool(tmp_path / "spool.db", message)
        assert list(spool.commit(b"a", [STAGED], 5.0)) == [told(1)]
        spool.close()
        assert not (tmp_path / "spool.db.reserve").exists()

    def test_a_damaged_file_is_an_os_error(self, tmp_path: Path) -> None:
        (tmp_path / "spool.db").write_bytes(b"this is no database, whatever it is " * 100)
        with pytest.raises(OSError, match="spool"):
            SqliteSpool(tmp_path / "spool.db", message)

    def test_killed_while_it_commits_it_has_all_of_a_commit_or_nothing_of_it(self, tmp_path: Path) -> None:
        """Each commit stores as many events as its state says; the child is killed at any moment of that."""
        path = tmp_path / "spool.db"
        for seen in range(0, 50, 10):

            def commit_on_and_on() -> None:
                spool = SqliteSpool(path, message)
                while True:
                    count = spool.last_sequence + 3
                    spool.commit(str(count).encode() * 500, [STAGED] * 3, 5.0)

            child = forked.start(commit_on_and_on)
            eventually(lambda at_least=seen: _events(path) > at_least)  # type: ignore[misc]  # bound on purpose
            os.kill(child, signal.SIGKILL)
            assert forked.wait(child) == -signal.SIGKILL
            spool = SqliteSpool(path, message)
            last = spool.last_sequence
            assert last % 3 == 0
            assert [p.sequence for p in spool.pending(limit=10**6)] == list(range(1, last + 1))
            assert spool.load() == str(last).encode() * 500
            spool.close()


def _events(path: Path) -> int:
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    except sqlite3.OperationalError:
        return 0
    try:
        return int(db.execute("SELECT count(*) FROM events").fetchone()[0])
    except sqlite3.OperationalError:
        return 0
    finally:
        db.close()
