"""The watcher on real files, with real writers in other processes."""

from __future__ import annotations

import io
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from runctl_agent.formats.base import FileStamp
from runctl_agent.watcher import lease, mounts
from runctl_agent.watcher.lease import Lease
from runctl_agent.watcher.model import Candidate, version_of
from runctl_agent.watcher.wakeup import Wakeup
from runctl_agent.watcher.watcher import Watcher
from runctl_shared.clock import FakeClock, SystemClock
from runctl_testing.eventually import eventually

QUIET = 2.0

WRITER = """
import os, sys
file = open(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "wb")
print("open", flush=True)
for line in sys.stdin:
    file.write(bytes.fromhex(line)); file.flush()
    print("written", flush=True)
file.close()
print("closed", flush=True)
"""


class Writer:
    """Another process that writes a file in place, as slowly as it is told to."""

    def __init__(self, path: Path, mode: str = "wb") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("open")

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data.hex() + "\n")
        self._process.stdin.flush()
        self._expect("written")

    def finish(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._expect("closed")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def npz(step: int, size: int = 2000) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.arange(size, dtype=np.float64) + step, step=np.array(step))
    return buffer.getvalue()


class ByHand:
    """A watcher without its thread: it looks when the test says so, at the time that the test says it is."""

    def __init__(self, root: Path, memory: Path | None = None) -> None:
        self.clock = FakeClock()
        self.watcher = Watcher(root, self._never, self.clock, quiet=QUIET, memory=memory)

    def _never(self, candidate: Candidate) -> None:
        raise AssertionError("nobody has started the thread")

    def look(self, after: float = 0.0, *, writer_gone: bool = False) -> list[str]:
        return [candidate.root_name for candidate in self.candidates(after, writer_gone=writer_gone)]

    def candidates(self, after: float = 0.0, *, writer_gone: bool = False) -> list[Candidate]:
        self.clock.advance(after)
        return self.watcher.scan_now(writer_gone=writer_gone)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def by_hand(root: Path) -> ByHand:
    return ByHand(root)


@pytest.fixture
def writer(root: Path) -> Iterator[Callable[..., Writer]]:
    made: list[Writer] = []

    def make(path: Path, mode: str = "wb") -> Writer:
        made.append(Writer(path, mode))
        return made[-1]

    yield make
    for each in made:
        each.close()


class Inbox:
    """A started watcher, and what it handed over."""

    def __init__(self, root: Path, quiet: float = 0.2) -> None:
        self.arrived = queue.Queue[Candidate]()
        self.watcher = Watcher(root, self.arrived.put, SystemClock(), quiet=quiet)
        self.watcher.start()

    def next(self) -> Candidate:
        return self.arrived.get(timeout=60)

    def close(self) -> None:
        self.watcher.stop()


@pytest.fixture
def inbox(root: Path) -> Iterator[Inbox]:
    with closing(Inbox(root)) as made:
        yield made


# -- never too early


def test_a_slow_writer_in_place_is_never_taken_before_it_closes(
    root: Path, by_hand: ByHand, writer: Callable[..., Writer]
) -> None:
    slow = writer(root / "step-5.bin")
    assert by_hand.look() == []
    for part in range(4):
        slow.write(b"%d" % part * 1000)
        assert by_hand.look(after=60) == []
    assert by_hand.watcher.waiting() == {"step-5.bin": "somebody is writing to it"}
    slow.finish()
    assert by_hand.look(after=60) == []
    assert by_hand.look(after=QUIET - 0.1) == []
    [candidate] = by_hand.candidates(after=0.1)
    assert (candidate.root_name, candidate.step, candidate.format) == ("step-5.bin", 5, "generic")
    assert [file.size for file in candidate.files] == [4000]
    assert not candidate.signed


def test_a_whole_archive_that_is_still_open_is_not_taken_either(
    root: Path, by_hand: ByHand, writer: Callable[..., Writer]
) -> None:
    (root / "a.npz").write_bytes(npz(3))
    still = writer(root / "a.npz", "r+b")
    assert by_hand.look() == []
    assert by_hand.look(after=100) == []
    still.finish()
    [candidate] = by_hand.candidates()
    assert (candidate.step, candidate.signed) == (3, True)


def test_a_truncated_npz_is_never_taken(root: Path, by_hand: ByHand) -> None:
    whole = npz(3)
    for length in range(1, len(whole), 1500):
        (root / "a.npz").write_bytes(whole[:length])
        assert by_hand.look() == []
        assert by_hand.look(after=1000) == []
        assert by_hand.look(writer_gone=True) == []
    (root / "a.npz").write_bytes(whole)
    assert by_hand.look() == ["a.npz"]


def test_a_folder_written_file_by_file_is_taken_once_and_whole(root: Path, by_hand: ByHand) -> None:
    folder = root / "checkpoint-7"
    (folder / "deep" / "er").mkdir(parents=True)
    for number in range(200):
        place = folder if number % 2 else folder / "deep" / "er"
        (place / f"shard-{number}").write_bytes(b"x" * number)
        assert by_hand.look(after=QUIET - 0.1) == []
    assert by_hand.look() == []
    [candidate] = by_hand.candidates(after=QUIET)
    assert (candidate.root_name, candidate.single_file, candidate.step) == ("checkpoint-7", False, 7)
    assert len(candidate.files) == 200
    on_disk = {str(path.relative_to(root)) for path in folder.rglob("shard-*")}
    assert {file.path for file in candidate.files} == on_disk
    assert by_hand.look(after=100) == []


def test_a_folder_of_which_one_file_is_open_is_not_taken(
    root: Path, by_hand: ByHand, writer: Callable[..., Writer]
) -> None:
    (root / "d").mkdir()
    (root / "d" / "a").write_bytes(b"whole")
    slow = writer(root / "d" / "b")
    assert by_hand.look() == []
    assert by_hand.look(after=100) == []
    slow.finish()
    by_hand.look(after=10)
    assert by_hand.look(after=QUIET) == ["d"]


def test_temporary_names_links_and_pipes_are_passed_over(root: Path, tmp_path: Path, by_hand: ByHand) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    (root / ".saving.tmp").write_bytes(npz(1))
    (root / "b.npz").write_bytes(npz(2))
    (root / "last.npz").symlink_to("b.npz")
    (root / "out").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    (root / os.fsdecode(b"\xff\xfe.npz")).write_bytes(npz(3))
    folder = root / "c"
    folder.mkdir()
    (folder / "mine").write_text("x")
    (folder / "same").symlink_to("mine")
    (folder / "stolen").symlink_to(secret)
    (folder / "up").symlink_to(root)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    assert by_hand.look() == ["b.npz"]
    [candidate] = by_hand.candidates(after=QUIET)
    assert [file.path for file in candidate.files] == ["c/mine", "c/same"]


# -- once, and again when it is another one


def test_an_overwritten_checkpoint_is_a_new_version(root: Path, by_hand: ByHand) -> None:
    path = root / "last.npz"
    versions = []
    for step in range(3):
        path.write_bytes(npz(step, size=100 + step))
        [candidate] = by_hand.candidates()
        assert candidate.step == step
        versions.append(candidate.version)
        assert by_hand.look(after=100) == []
    assert len(set(versions)) == 3


def test_another_file_of_the_same_size_and_time_is_a_new_version(root: Path, by_hand: ByHand) -> None:
    path, other = root / "last.npz", root / ".other"
    path.write_bytes(npz(1))
    assert by_hand.look() == ["last.npz"]
    other.write_bytes(npz(2))
    found = path.stat()
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.replace(path)
    assert [candidate.step for candidate in by_hand.candidates()] == [2]


def test_a_restart_does_not_hand_over_what_is_committed(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    for name in ("a.npz", "b.npz", "c.npz"):
        (root / name).write_bytes(npz(1))
    before = ByHand(root, memory)
    versions = {candidate.root_name: candidate.version for candidate in before.candidates()}
    for name in ("a.npz", "b.npz"):
        before.watcher.mark_committed(versions[name])
    before.watcher.forget(versions["b.npz"])
    with memory.open("a") as file:
        file.write("+" + "0" * 20)  # a crash while writing
    after = ByHand(root, memory)
    assert sorted(after.look()) == ["b.npz", "c.npz"]
    after.watcher.mark_committed(versions["b.npz"])
    after.watcher.mark_committed(versions["c.npz"])
    assert ByHand(root, memory).look(writer_gone=True) == []


def test_what_was_restored_is_not_handed_over(root: Path, tmp_path: Path) -> None:
    memory = tmp_path / "memory"
    (root / "checkpoint-5").mkdir()
    (root / "checkpoint-5" / "w").write_text("restored")
    (root / "a.npz").write_bytes(npz(5))
    first = ByHand(root, memory)
    first.watcher.ignore("checkpoint-5")
    first.watcher.ignore("a.npz")
    first.watcher.ignore("never-there")
    for watch in (first, ByHand(root, memory)):
        watch.look()
        assert watch.look(after=100) == []
        assert watch.look(writer_gone=True) == []
    (root / "checkpoint-5" / "w").write_text("trained on")
    first.look()
    assert first.look(after=QUIET) == ["checkpoint-5"]


def test_a_version_is_told_by_names_sizes_and_times() -> None:
    files = [FileStamp("d/a", 1, 2, 3), FileStamp("d/b", 1, 2, 4)]
    same = version_of("d", files)
    assert version_of("d", [FileStamp(f.path, f.size, f.mtime_ns, 99) for f in reversed(files)]) == same
    for other in (files[:1], [files[0], FileStamp("d/c", 1, 2, 4)], [files[0], FileStamp("d/b", 1, 3, 4)]):
        assert version_of("d", other) != same


def test_what_could_not_be_stored_is_handed_over_again(root: Path, by_hand: ByHand) -> None:
    (root / "a.npz").write_bytes(npz(1))
    [candidate] = by_hand.candidates()
    by_hand.watcher.forget(candidate.version, again_in=30)
    assert by_hand.look(after=29) == []
    assert by_hand.look(after=1) == ["a.npz"]


# -- while files come and go


def test_rotation_is_ordinary(root: Path, by_hand: ByHand) -> None:
    for step in range(20):
        (root / f"step-{step}.npz").write_bytes(npz(step, size=10))
        assert by_hand.look() == [f"step-{step}.npz"]
        (root / f"step-{step - 3}.npz").unlink(missing_ok=True)
    assert by_hand.watcher.waiting() == {}


def test_a_folder_that_is_deleted_file_by_file_is_not_taken_for_a_new_one(
    root: Path, by_hand: ByHand
) -> None:
    folder = root / "checkpoint-5"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}").write_text("x")
    by_hand.look()
    [candidate] = by_hand.candidates(after=QUIET)
    for number in range(5):
        (folder / f"{number}").unlink()
        by_hand.watcher.forget(candidate.version)  # the upload of what is gone has failed
        assert by_hand.look() == []
        assert by_hand.look(after=100) == []
        assert by_hand.look(writer_gone=True) == []


def test_files_that_vanish_in_the_middle_of_a_scan_do_no_harm(root: Path, by_hand: ByHand) -> None:
    stop = threading.Event()

    def rotate() -> None:
        step = 0
        while not stop.is_set():
            folder = root / f"checkpoint-{step % 5}"
            (folder / "deep").mkdir(parents=True, exist_ok=True)
            for number in range(20):
                (folder / "deep" / f"{number}").write_text("x" * step)
            (root / f"{step % 7}.npz").write_bytes(npz(step, size=10))
            shutil.rmtree(root / f"checkpoint-{(step + 2) % 5}", ignore_errors=True)
            (root / f"{(step + 3) % 7}.npz").unlink(missing_ok=True)
            step += 1

    thread = threading.Thread(target=rotate)
    thread.start()
    try:
        for _ in range(150):
            for candidate in by_hand.candidates(after=0.5):
                assert candidate.files
    finally:
        stop.set()
        thread.join()


def test_with_the_training_dead_nothing_is_waited_for(root: Path, by_hand: ByHand) -> None:
    (root / "d").mkdir()
    (root / "d" / "w").write_text("x")
    (root / "torn.npz").write_bytes(npz(1)[:-30])
    (root / "whole.npz").write_bytes(npz(2))
    os.utime(root / "d" / "w", (1, 1))
    found = by_hand.candidates(writer_gone=True)
    assert [(c.root_name, c.signed, c.written_at > 1) for c in found] == [
        ("d", False, False),
        ("whole.npz", True, True),
    ]


def test_one_unreadable_candidate_does_not_hide_the_others(
    root: Path, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "bad").mkdir()
    (root / "bad" / "w").write_text("x")
    (root / "good.npz").write_bytes(npz(1))
    real = os.scandir

    def failing(path: Path) -> object:
        if Path(path).name == "bad":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", failing)  # root, who may run the tests, is never denied
    assert by_hand.look() == ["good.npz"]
    assert by_hand.watcher.waiting() == {"bad": "Permission denied"}


def test_no_directory_yet_is_no_checkpoint_yet(tmp_path: Path) -> None:
    watch = ByHand(tmp_path / "later")
    assert watch.look() == []
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "a.npz").write_bytes(npz(1))
    assert watch.look(after=10) == ["a.npz"]


# -- with its thread


def test_what_is_renamed_into_place_is_handed_over(root: Path, inbox: Inbox) -> None:
    for step in range(5):
        (root / ".saving.tmp").write_bytes(npz(step))
        (root / ".saving.tmp").replace(root / f"step-{step}.npz")
        assert inbox.next().step == step


def test_the_close_of_a_slow_writer_wakes_the_watcher(
    root: Path, inbox: Inbox, writer: Callable[..., Writer]
) -> None:
    slow = writer(root / "a.npz")
    slow.write(npz(1))
    eventually(lambda: inbox.watcher.waiting().get("a.npz") == "somebody is writing to it")
    assert inbox.arrived.empty()
    slow.finish()
    assert inbox.next().step == 1


def test_a_burst_is_handed_over_without_loss(root: Path, inbox: Inbox) -> None:
    data = npz(1, size=1)
    for number in range(2000):
        (root / f".{number}").write_bytes(data)
        (root / f".{number}").rename(root / f"burst-{number}.npz")
    assert {inbox.next().root_name for _ in range(2000)} == {f"burst-{n}.npz" for n in range(2000)}
    assert inbox.arrived.empty()


def test_a_directory_that_is_made_or_made_anew_is_watched(tmp_path: Path) -> None:
    root = tmp_path / "link"
    root.symlink_to(tmp_path / "real")
    with closing(Inbox(root)) as inbox:
        for step in range(2):
            (tmp_path / "real").mkdir()
            (root / "a.npz").write_bytes(npz(step, size=step + 1))
            assert inbox.next().step == step
            shutil.rmtree(tmp_path / "real")


def test_without_events_it_looks_by_the_clock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "far", lambda path: True)
    with closing(Inbox(root)) as inbox:
        (root / "a.npz").write_bytes(npz(1))
        assert inbox.next().step == 1
        assert not [thread for thread in threading.enumerate() if "notify" in type(thread).__name__.lower()]


def test_a_handler_that_fails_gets_it_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runctl_agent.watcher.watcher.AGAIN", 0.05)
    calls = queue.Queue[str]()

    def handler(candidate: Candidate) -> None:
        calls.put(candidate.root_name)
        if calls.qsize() == 1:
            raise RuntimeError("not yet")

    watcher = Watcher(root, handler, SystemClock())
    watcher.start()
    try:
        (root / "a.npz").write_bytes(npz(1))
        eventually(lambda: calls.qsize() == 2)
    finally:
        watcher.stop()


def test_events_wake_and_looking_does_not(root: Path) -> None:
    awake = threading.Event()
    wakeup = Wakeup(root, awake.set)
    assert wakeup.start()
    try:
        (root / "a").write_text("x")
        assert awake.wait(60)
        by_hand = ByHand(root)
        # Whatever is still under way from the write has arrived once this one's own event has.
        (root / "b").write_text("x")
        eventually(lambda: _falls_asleep(awake))
        for _ in range(20):
            by_hand.look(after=10)
        assert not awake.wait(0.5)
    finally:
        wakeup.stop()


def _falls_asleep(awake: threading.Event) -> bool:
    awake.clear()
    return not awake.wait(0.5)


# -- leases


def test_a_lease_tells_who_writes(root: Path, writer: Callable[..., Writer]) -> None:
    path, other = root / "a", root / "b"
    other.write_text("x")
    slow = writer(path)
    assert lease.ask([other, path]) is Lease.BUSY
    slow.finish()
    assert lease.ask([other, path]) is Lease.FREE
    with path.open("rb"):
        assert lease.ask([path]) is Lease.FREE, "readers do not count"
    with pytest.raises(FileNotFoundError):
        lease.ask([root / "gone"])


def test_where_there_are_no_leases_nothing_is_known(root: Path) -> None:
    (root / "a").write_text("x")
    assert lease.ask([root / "a", root]) is Lease.UNKNOWN, "the kernel gives none on a folder"


RACE = """
import sys
from pathlib import Path
from runctl_agent.watcher import lease
path = Path(sys.argv[1])
print("go", flush=True)
for _ in range(30_000):
    lease.ask([path])
print("alive", flush=True)
"""

OPENER = """
import os, sys
print("go", flush=True)
while True:
    os.close(os.open(sys.argv[1], os.O_WRONLY))
"""


def test_a_writer_that_opens_in_the_moment_of_the_lease_does_not_kill_the_agent(root: Path) -> None:
    """By default the kernel sends SIGIO then, which ends a process that does not expect it."""
    path = root / "a"
    path.write_text("x")
    with subprocess.Popen([sys.executable, "-c", OPENER, str(path)], stdout=subprocess.PIPE) as opener:
        assert opener.stdout is not None
        opener.stdout.readline()
        try:
            done = subprocess.run(
                [sys.executable, "-c", RACE, str(path)],
                capture_output=True,
                text=True,
                timeout=100,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )
        finally:
            opener.kill()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["go", "alive"]
