"""State files that cannot be used: one sentence, what to do, and the file as it was."""

from __future__ import annotations

import os
import random
import resource
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from runctl_controller.store.port import Superseded
from runctl_controller.store.sql import sqlite
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.errors import StoreUnusable
from runctl_testing import forked
from runctl_testing.records import new_run, with_attempt

RUNS = 200


def _open(path: Path) -> SqlStore:
    return SqlStore(f"sqlite:///{path}")


def _add(store: SqlStore, run: str) -> None:
    with store.transaction() as tx:
        tx.save(with_attempt(new_run(run), ("boot", 1.0, None)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with runs in it."""
    path = tmp_path / "state.db"
    with closing(_open(path)) as store, store.transaction() as tx:
        for number in range(RUNS):
            tx.save(with_attempt(new_run(f"run-{number}"), ("boot", 1.0, None)))
    return path


@contextmanager
def _refused(path: Path, match: str) -> Iterator[None]:
    """One sentence and its mend; nothing in the folder is changed."""
    before = _contents(path.parent)
    with pytest.raises(StoreUnusable, match=match) as caught:
        yield
    assert "\n" not in str(caught.value)
    assert caught.value.what.endswith(".")
    assert caught.value.mend.endswith(".")
    assert _contents(path.parent) == before


def _contents(folder: Path) -> dict[str, bytes]:
    # The file that SQLite shares its locks in may come and go.
    files = (each for each in folder.glob("*") if each.is_file() and not each.name.endswith("-shm"))
    return {each.name: each.read_bytes() for each in files}


def test_it_is_readable_by_its_owner_only(path: Path) -> None:
    path.chmod(0o644)
    with closing(_open(path)):
        modes: dict[str, int] = {each.name: each.stat().st_mode & 0o777 for each in path.parent.iterdir()}
        assert modes == dict.fromkeys(["state.db", "state.db-wal", "state.db-shm"], 0o600)


def test_a_path_may_hold_what_means_something_in_a_url(tmp_path: Path) -> None:
    folder = tmp_path / "a?b#c%20d é"
    folder.mkdir()
    for _ in range(2):
        with closing(_open(folder / "state.db")):
            pass
    assert [each.name for each in folder.iterdir()] == ["state.db"]


def _noise(size: int) -> bytes:
    return random.Random(7).randbytes(size)


def _overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "noise": lambda path: path.write_bytes(_noise(20_000)),
    "a text": lambda path: path.write_text("runs: none\n"),
    "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "cut within a page": lambda path: os.truncate(path, path.stat().st_size - 1000),
    "cut in the header": lambda path: os.truncate(path, 50),
    "its first page": lambda path: _overwrite(path, 100, _noise(3000)),
    "pages in the middle": lambda path: _overwrite(path, path.stat().st_size // 2, _noise(8192)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_file_is_said_to_be_and_left_alone(path: Path, damage: Callable[[Path], object]) -> None:
    damage(path)
    with _refused(path, "is damaged"):
        _open(path)


def test_damage_that_a_killed_process_left_behind_is_left_alone_too(path: Path) -> None:
    """Its newest changes still lie beside the file: they must not be written into a damaged one."""

    def die() -> None:
        store = _open(path)
        _add(store, "run-late")
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked.run(die) == -signal.SIGKILL
    assert path.with_name("state.db-wal").stat().st_size > 0
    whole = path.read_bytes()
    DAMAGES["pages in the middle"](path)
    with _refused(path, "is damaged"):
        _open(path)
    path.write_bytes(whole)  # a backup is put in its place
    with closing(_open(path)) as store, store.transaction() as tx:
        assert tx.load("run-late") is not None


def test_damage_in_a_large_file_shows_when_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "CHECKED_WHOLE", 0)
    _overwrite(path, 8192, _noise(path.stat().st_size - 8192))

    def read_all() -> None:
        with closing(_open(path)) as store, store.transaction() as tx:
            for number in range(RUNS):
                tx.load(f"run-{number}")

    with _refused(path, "is damaged"):
        read_all()


def test_somebody_elses_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE notes (text)")
    with _refused(path, "none of runctl's"):
        _open(path)


def test_a_newer_state_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = 7 WHERE name = 'schema'")
    with _refused(path, r"^The state was written by a newer runctl \(schema 7, this one knows \d+\)\."):
        _open(path)


@pytest.mark.parametrize("where", ["none/state.db", "file/state.db", "."])
def test_a_place_that_cannot_be_written_to(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").touch()
    with _refused(tmp_path / where, "cannot be written to"):
        _open(tmp_path / where)
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_we_may_not_write_to(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with _refused(path, "cannot be written to"):
            _open(path)
        with _refused(path, "cannot be written to"):
            _open(path.with_name("new.db"))
    finally:
        path.parent.chmod(0o700)


@pytest.mark.parametrize("url", ["postgresql://db/runctl", "sqlite://", "sqlite:///", "state.db", ""])
def test_other_databases_are_not_supported_yet(url: str) -> None:
    with pytest.raises(StoreUnusable, match="sqlite:///PATH"):
        SqlStore(url)


def _pages(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """SQLite meets a full disk when the file would need more pages."""
    monkeypatch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, f"PRAGMA max_page_count = {most}"))


def test_a_full_disk_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pages(monkeypatch, path.stat().st_size // 4096 + 2)
    with closing(_open(path)) as store:

        def fill() -> None:
            with store.transaction() as tx:
                for number in range(RUNS):
                    tx.save(with_attempt(new_run(f"more-{number}")))

        for _ in range(2):
            with pytest.raises(StoreUnusable, match=r"disk .* is full"):
                fill()
        with store.transaction() as tx:
            assert len(tx.runs(limit=1000)) == RUNS
    monkeypatch.undo()
    with closing(_open(path)) as store:
        _add(store, "run-late")


def test_no_room_for_a_new_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    _pages(monkeypatch, 8)
    with pytest.raises(StoreUnusable, match=r"disk .* is full"):
        _open(path)
    monkeypatch.undo()
    with closing(_open(path)) as store:
        _add(store, "run-a")


def test_a_commit_that_fails_changes_nothing(path: Path) -> None:
    """The disk refuses what a commit writes; once it does not, all goes on."""

    def work() -> None:
        with closing(_open(path)) as store:
            _add(store, "run-before")
            size = path.with_name("state.db-wal").stat().st_size
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
            with pytest.raises(StoreUnusable, match=r"state file .* failed"):
                _add(store, "run-lost")
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            with store.transaction() as tx:
                assert tx.load("run-before") is not None
                assert tx.load("run-lost") is None
            _add(store, "run-after")

    assert forked.run(work) == 0
    with closing(_open(path)) as store, store.transaction() as tx:
        assert [tx.load(f"run-{each}") is not None for each in ("before", "lost", "after")] == [1, 0, 1]


def test_a_locked_file_is_one_sentence_and_no_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PRAGMAS", (*sqlite.PRAGMAS, "PRAGMA busy_timeout = 1"))
    with closing(_open(path)) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(2):
            with pytest.raises(StoreUnusable, match=r"keeps the state file .* locked"):
                _add(store, "run-a")
        other.execute("ROLLBACK")
        _add(store, "run-a")


def test_a_closed_store_says_so(path: Path) -> None:
    store = _open(path)
    store.close()
    store.close()
    with pytest.raises(StoreUnusable, match="closed"):
        _add(store, "run-a")
    assert [each.name for each in path.parent.iterdir()] == ["state.db"]


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_file_that_goes_away_under_its_controller(path: Path, replaced: bool) -> None:
    """A controller that works on for days in a file without a name, and takes it all along when it ends."""
    with closing(_open(path)) as store:
        _add(store, "run-before")
        path.unlink()
        if replaced:
            with closing(_open(path)) as other:
                _add(other, "run-other")
        with pytest.raises(Superseded, match="was removed, or another") as caught:
            _add(store, "run-after")
        assert "runctl import" in caught.value.mend
