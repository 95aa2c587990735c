"""What a folder adds to the contract: crashes, disks that fill up, links, owners, and mounts that go away."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.objects import (
    AlreadyExists,
    ObjectStoreError,
    StoreFull,
    StoreRefused,
)
from runctl_shared.clock import FakeClock, SystemClock
from runctl_testing import forked
from runctl_testing.small_disk import small_disk

OLD, NEW = b"old" * 1000, b"new!" * 1000
LOST = 3
"""The exit status of a child that was not the first."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def temporaries(root: Path) -> list[Path]:
    return list((root / ".runctl-tmp").glob("*"))


def test_of_many_processes_one_wins(root: Path) -> None:
    store = DirectoryStore(root)
    for turn in range(5):
        codes = race(store, f"attempts/{turn}")
        assert sorted(codes) == [0] + [LOST] * 15
        assert store.get(f"attempts/{turn}") == str(codes.index(0)).encode()
    assert temporaries(root) == []


def race(store: DirectoryStore, key: str) -> list[int]:
    """How 16 processes ended that put `key` at once."""
    reader, writer = os.pipe()

    def contend(number: int) -> None:
        os.close(writer)
        os.read(reader, 1)
        try:
            store.put(key, str(number).encode(), if_absent=True)
        except AlreadyExists:
            os._exit(LOST)

    children = [forked.start(partial(contend, number)) for number in range(16)]
    os.close(writer)  # the start: every reader sees the end of the pipe
    os.close(reader)
    return [forked.wait(pid) for pid in children]


@pytest.mark.parametrize("if_absent", [False, True])
def test_killed_anywhere_there_is_never_half_an_object(root: Path, if_absent: bool) -> None:
    seen = set()
    for call in count():
        store = DirectoryStore(root / str(call))
        if not if_absent:
            store.put("a/b/k", OLD)
        killed = forked.killed_at(call, partial(store.put, "a/b/k", NEW, if_absent=if_absent))
        found = [store.get(info.key) for info in store.list("")]
        assert found in ([] if if_absent else [OLD], [NEW])
        seen.add(tuple(found))
        store.put("a/b/k", OLD)  # what is left over is in nobody's way
        assert store.get("a/b/k") == OLD
        if not killed:
            assert found == [NEW]
            assert len(temporaries(root / str(call))) == 0
            break
    assert len(seen) == 2
    assert call > 3


def test_what_returned_is_on_the_disk(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Synced before it gets its name, and the name after; so are the names of new folders."""
    store = DirectoryStore(root)
    done: list[tuple[str, str]] = []

    def watch(name: str, where: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            done.append((name, where(*args)))
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, call)

    watch("fsync", lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
    watch("rename", lambda _, target: str(target))
    watch("link", lambda _, target: str(target))
    store.put("a/b/k", b"x")
    store.put("a/b/c", b"x", if_absent=True)
    folder = str(root / "a" / "b")
    assert [(what, where) for what, where in done if ".runctl-tmp" not in where] == [
        ("fsync", str(root)),
        ("fsync", str(root / "a")),
        ("rename", folder + "/k"),
        ("fsync", folder),
        ("link", folder + "/c"),
        ("fsync", folder),
    ]
    assert [".runctl-tmp" in where for _, where in done] == [
        True,
        False,
        False,
        False,
        False,
        True,
        False,
        False,
    ]


def test_only_the_owner_may_look(root: Path) -> None:
    DirectoryStore(root).put("a/k", b"x")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")]}
    assert modes == {"store": 0o700, "a": 0o700, "k": 0o600, ".runctl-tmp": 0o700}


def test_leftovers_are_no_objects_and_go_after_a_day(root: Path) -> None:
    DirectoryStore(root).put("k", b"x")
    left = root / ".runctl-tmp" / "tmp-left"
    left.write_bytes(b"half")
    clock = FakeClock(SystemClock().now())
    assert [info.key for info in DirectoryStore(root, clock=clock).list("")] == ["k"]
    assert left.exists()
    clock.advance(86_500)
    DirectoryStore(root, clock=clock)
    assert not left.exists()
    with pytest.raises(ValueError, match="reserved"):
        DirectoryStore(root).put(".runctl-tmp/k", b"x")


@pytest.mark.parametrize("outside", [True, False])
def test_links_are_refused_and_not_overlooked(root: Path, tmp_path: Path, outside: bool) -> None:
    store = DirectoryStore(root)
    store.put("inside/k", b"x")
    elsewhere = tmp_path / "elsewhere" if outside else root / "inside"
    elsewhere.mkdir(exist_ok=True)
    (root / "run").symlink_to(elsewhere)
    (root / "file").symlink_to(root / "inside" / "k")
    for call in (
        lambda: store.put("run/k", b"x"),
        lambda: store.put("file", b"x"),
        lambda: store.get("run/k"),
        lambda: store.get("file"),
        lambda: store.delete("run/k"),
        lambda: list(store.list("run/")),
        lambda: list(store.list("")),
    ):
        with pytest.raises(StoreRefused, match="symbolic link"):
            call()
    assert [path.name for path in elsewhere.iterdir()] == ([] if outside else ["k"])
    assert [info.key for info in store.list("inside/")] == ["inside/k"]


def test_a_store_that_went_away_is_not_an_empty_one(root: Path) -> None:
    store = DirectoryStore(root)
    store.put("k", b"x")
    root.rename(root.with_name("moved"))
    for call in (
        lambda: list(store.list("")),
        lambda: list(store.list("a/")),
        lambda: store.get("k"),
        lambda: store.put("a/k", b"x"),
        lambda: store.delete("k"),
        lambda: DirectoryStore(root, create=False),
    ):
        with pytest.raises(StoreRefused, match="does not exist"):
            call()
    assert not root.exists()


def test_a_file_is_no_store(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(StoreRefused, match="is not a folder") as refused:
        DirectoryStore(root)
    assert refused.value.mend


def test_an_object_is_no_folder(root: Path) -> None:
    store = DirectoryStore(root)
    store.put("a", b"x")
    with pytest.raises(StoreRefused):
        store.put("a/b", b"x")
    store.put("d/e", b"x")
    with pytest.raises(StoreRefused):
        store.put("d", b"x")
    assert temporaries(root) == []


@pytest.fixture
def anybody() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)  # noqa: S103  # that is the point
        yield Path(folder)


def test_a_folder_that_may_not_be_written(anybody: Path) -> None:
    root = anybody / "store"
    root.mkdir(0o755)
    (root / "k").write_bytes(b"x")
    (root / "secret").mkdir(0o700)
    os.chmod(root, 0o555)  # noqa: S103  # that is the point

    def try_it() -> None:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            with pytest.raises(StoreRefused):
                list(DirectoryStore(root).list("secret/"))
        store = DirectoryStore(root)
        assert store.get("k") == b"x"
        with pytest.raises(StoreRefused, match="Permission denied") as refused:
            store.put("a", b"x")
        assert refused.value.mend
        with pytest.raises(StoreRefused):
            DirectoryStore(root / "new")

    assert forked.run(try_it) == 0


def test_a_limit_on_file_size_is_a_full_store(root: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3 << 20))

    def try_it() -> None:
        store = DirectoryStore(root)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        check_full(store, tmp_path / "big")

    assert forked.run(try_it) == 0
    assert temporaries(root) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one mebibyte."""
    with small_disk(tmp_path / "disk", 1) as disk:
        yield disk.path


def test_a_full_disk(tiny_disk: Path, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3 << 20))
    store = DirectoryStore(tiny_disk)
    check_full(store, tmp_path / "big")
    assert temporaries(tiny_disk) == []
    store.put("k", bytes(1 << 19))  # what failed takes no room


def check_full(store: DirectoryStore, big: Path) -> None:
    with pytest.raises(StoreFull) as full:
        store.put_file("k", big)
    assert full.value.mend
    with pytest.raises(StoreFull):
        store.put("k", bytes(3 << 20))
    assert list(store.list("")) == []


def test_a_pipe_in_a_files_place_does_not_block(root: Path, tmp_path: Path) -> None:
    store = DirectoryStore(root)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileNotFoundError):
        store.put_file("k", tmp_path / "pipe")
    os.mkfifo(root / "pipe")
    assert list(store.list("")) == []
    with pytest.raises(ObjectStoreError, match="is not in"):
        store.get("pipe")


def test_large_files_take_little_memory(root: Path, tmp_path: Path) -> None:
    with open(tmp_path / "big", "wb") as file:
        file.truncate(64 << 20)
    store = DirectoryStore(root)
    tracemalloc.start()
    try:
        store.put_file("k", tmp_path / "big")
        with open(os.devnull, "wb") as nowhere:
            store.get_file("k", nowhere)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_writers_and_deleters_share_a_folder(root: Path) -> None:
    """A delete takes emptied folders away; a writer that was about to use one makes it again."""
    store = DirectoryStore(root)
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(60):
                store.put(f"a/b/{number}", b"x")
                store.delete(f"a/b/{number}")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(store.list("")) == []
