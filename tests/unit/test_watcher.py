"""What the watcher takes for complete, on real files, at times that the test chooses."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl_agent.formats.base import Entry, FileStamp, Verdict
from runctl_agent.formats.npz import Npz
from runctl_agent.watcher import mounts
from runctl_agent.watcher.inspector import Inspector
from runctl_agent.watcher.model import version_of
from runctl_agent.watcher.scan import scan
from runctl_agent.watcher.taken import Taken
from runctl_testing.watching import QUIET, ByHand, Writer, npz, writers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def by_hand(root: Path) -> ByHand:
    return ByHand(root)


writer = pytest.fixture(writers)


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


def test_what_changes_while_it_is_being_checked_is_not_taken(
    root: Path, by_hand: ByHand, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "a.npz"
    path.write_bytes(npz(1))
    real = Npz.check

    def slow_check(kind: Npz, entry: Entry) -> Verdict:
        verdict = real(kind, entry)
        path.write_bytes(npz(2, size=5))
        return verdict

    with monkeypatch.context() as patched:
        patched.setattr(Npz, "check", slow_check)
        assert by_hand.look() == []
    assert [candidate.step for candidate in by_hand.candidates()] == [2]


def test_on_file_systems_of_other_machines_leases_are_not_believed(
    root: Path, by_hand: ByHand, writer: Callable[..., Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "far", lambda path: True)
    (root / "a.npz").write_bytes(npz(1))
    writer(root / "a.npz", "r+b")  # NFS would answer like this for ever
    assert by_hand.look() == []
    assert by_hand.look(after=QUIET) == ["a.npz"]


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


def test_what_is_open_and_never_left_alone_is_suspicious(root: Path) -> None:
    """Would never look for the several processes that rewrite one file all the time."""
    inspector = Inspector(root, 2.0, Taken(None))
    found = []
    with (root / "model.pt").open("wb", buffering=0) as file:
        for now in range(8):
            file.write(b"more")
            inspector.inspect(float(now), scan(root), woken=False, writer_gone=False)
            assert [each.root_name for each in inspector.busy] == ["model.pt"]
            found.append(inspector.suspicious)
    assert found == [False] * 5 + [True] * 3
