"""What every ObjectStore promises, asked of every implementation."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import AlreadyExists, ObjectMissing, ObjectStore
from runctl_shared.checkpoints.prefixed import PrefixedStore
from runctl_shared.checkpoints.probe import probe_conditional_put

MAKERS: dict[str, Callable[[Path], ObjectStore]] = {
    "directory": DirectoryStore,
    "memory": lambda _: MemoryStore(),
    "part-of-directory": lambda root: PrefixedStore(DirectoryStore(root), "run-1"),
    "part-of-memory": lambda _: PrefixedStore(MemoryStore(), "run-1"),
}

NO_KEYS = [
    "",
    "/absolute",
    "..",
    "../up",
    "a/../b",
    "a/./b",
    "a//b",
    "a/",
    "a\0b",
    "\udcff",
    "x" * 256,
    "x/" * 600 + "x",
]


@pytest.fixture(params=list(MAKERS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MAKERS[request.param](tmp_path / "store")


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [info.key for info in store.list(prefix)]


def test_what_is_put_is_got(store: ObjectStore) -> None:
    store.put("a/b", b"0123456789")
    assert store.get("a/b") == b"0123456789"
    assert store.get_range("a/b", 2, 3) == b"234"
    assert store.get_range("a/b", 8, 100) == b"89"
    assert store.get_range("a/b", 10, 5) == b""
    target = io.BytesIO()
    assert store.get_file("a/b", target) == (10, hashlib.sha256(b"0123456789").hexdigest())
    assert target.getvalue() == b"0123456789"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (5 << 19) + 7])
def test_files_of_all_sizes_come_back(store: ObjectStore, tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "file").write_bytes(data)
    expected = (size, hashlib.sha256(data).hexdigest())
    assert store.put_file("k", tmp_path / "file") == expected
    target = io.BytesIO()
    assert store.get_file("k", target) == expected
    assert target.getvalue() == data == store.get("k")


def test_a_put_replaces(store: ObjectStore) -> None:
    store.put("k", b"old and longer")
    store.put("k", b"new")
    assert store.get("k") == b"new"
    assert [info.size for info in store.list("")] == [3]


def test_a_conditional_put_never_replaces(store: ObjectStore) -> None:
    store.put("k", b"first", if_absent=True)
    with pytest.raises(AlreadyExists):
        store.put("k", b"second", if_absent=True)
    assert store.get("k") == b"first"
    store.delete("k")
    store.put("k", b"third", if_absent=True)
    assert store.get("k") == b"third"


def test_of_many_conditional_puts_one_wins(store: ObjectStore) -> None:
    writers = 16
    barrier = Barrier(writers)

    def write(number: int, key: str) -> bool:
        barrier.wait()
        try:
            store.put(key, str(number).encode(), if_absent=True)
        except AlreadyExists:
            return False
        return True

    with ThreadPoolExecutor(writers) as pool:
        for key in ("a/1", "a/2", "a/3", "a/4"):
            won = list(pool.map(write, range(writers), [key] * writers))
            assert won.count(True) == 1
            assert store.get(key) == str(won.index(True)).encode()


def test_missing_objects_are_missing(store: ObjectStore) -> None:
    store.put("a/b", b"x")
    for key in ("a", "a/c", "a/b/c", "z"):
        with pytest.raises(ObjectMissing):
            store.get(key)
        with pytest.raises(ObjectMissing):
            store.get_range(key, 0, 1)
        with pytest.raises(ObjectMissing):
            store.get_file(key, io.BytesIO())
    assert keys(store, "z") == keys(store, "a/b/") == []


def test_a_file_that_is_gone(store: ObjectStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file("k", tmp_path / "gone")
    assert keys(store) == []


def test_delete_removes_and_may_be_repeated(store: ObjectStore) -> None:
    store.put("a/b/c", b"x")
    store.put("a/d", b"x")
    store.delete("a/b/c")
    store.delete("a/b/c")
    store.delete("never/was")
    assert keys(store) == ["a/d"]
    store.put("a/b", b"a file where a folder was")
    assert keys(store) == ["a/b", "a/d"]


@pytest.mark.parametrize("key", NO_KEYS, ids=lambda key: repr(key)[:20])
def test_no_key_leads_out_of_the_store(store: ObjectStore, tmp_path: Path, key: str) -> None:
    (tmp_path / "file").write_bytes(b"x")
    calls: list[Callable[[], object]] = [
        lambda: store.put(key, b"x"),
        lambda: store.put(key, b"x", if_absent=True),
        lambda: store.put_file(key, tmp_path / "file"),
        lambda: store.get(key),
        lambda: store.get_range(key, 0, 1),
        lambda: store.get_file(key, io.BytesIO()),
        lambda: store.delete(key),
    ]
    if "\0" in key or "//" in key or "../" in key:
        calls.append(lambda: list(store.list(key)))
    for call in calls:
        with pytest.raises(ValueError, match=r"plain relative path|NUL|UTF-8|too long"):
            call()
    assert keys(store) == []


PART = st.text("ab./-_é0 ", min_size=1, max_size=3).filter(
    lambda part: part.strip("/") not in ("", ".", "..")
)
KEY = st.lists(PART.map(lambda part: part.replace("/", "x")), min_size=1, max_size=3).map("/".join)


@pytest.mark.parametrize("kind", list(MAKERS))
@given(wanted=st.sets(KEY, max_size=12), cut=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_a_listing_is_complete_and_in_order(kind: str, wanted: set[str], cut: int) -> None:
    # A file system cannot hold both "a" and "a/b"; no run ever needs it to.
    wanted = {key for key in wanted if not any(other.startswith(key + "/") for other in wanted)}
    with tempfile.TemporaryDirectory() as folder:
        store = MAKERS[kind](Path(folder))
        for key in wanted:
            store.put(key, key.encode())
        prefix = min(wanted)[:cut] if wanted else ""
        found = list(store.list(prefix))
    assert [info.key for info in found] == sorted(key for key in wanted if key.startswith(prefix))
    assert all(info.size == len(info.key.encode()) for info in found)


def test_the_probe_believes_a_store_that_refuses(store: ObjectStore) -> None:
    assert probe_conditional_put(store)
    assert keys(store) == []


class Overwriting(MemoryStore):
    """Refuses a conditional put, after having done it."""

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        there = key in self.objects
        super().put(key, data)
        if if_absent and there:
            raise AlreadyExists("too late")


@pytest.mark.parametrize("liar", [MemoryStore(honours_conditions=False), Overwriting()])
def test_the_probe_sees_through_a_store_that_does_not(liar: MemoryStore) -> None:
    assert not probe_conditional_put(liar)
    assert liar.objects == {}


def test_a_part_of_a_store_sees_only_itself() -> None:
    whole = MemoryStore()
    whole.put("run-10/x", b"another's")
    part = PrefixedStore(whole, "run-1")
    part.put("x", b"mine")
    assert keys(part) == ["x"]
    assert keys(whole) == ["run-1/x", "run-10/x"]
    with pytest.raises(ValueError, match="plain relative path"):
        part.get("../run-10/x")


def test_the_fake_fails_on_request_once_and_records() -> None:
    fake = MemoryStore()
    fake.fail_once("put", AlreadyExists("as asked"))
    with pytest.raises(AlreadyExists, match="as asked"):
        fake.put("k", b"x")
    fake.put("k", b"x")
    assert fake.calls == [("put", "k"), ("put", "k")]
    assert fake.objects == {"k": b"x"}
