"""The watcher's thread and the events that wake it, and leases, against real writers in other processes."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runctl_agent.watcher import lease, mounts
from runctl_agent.watcher.lease import Lease
from runctl_agent.watcher.model import Candidate
from runctl_agent.watcher.wakeup import Wakeup
from runctl_agent.watcher.watcher import Watcher
from runctl_shared.clock import SystemClock
from runctl_testing.eventually import eventually
from runctl_testing.watching import ByHand, Inbox, Writer, npz, writers


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


writer = pytest.fixture(writers)


@pytest.fixture
def inbox(root: Path) -> Iterator[Inbox]:
    with closing(Inbox(root)) as made:
        yield made


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


def test_who_asks_for_a_look_waits_for_what_is_just_being_handed_over(root: Path) -> None:
    """Else the last look before the machine goes finds nothing, and what it should have found comes after."""
    entered, release, story = threading.Event(), threading.Event(), queue.Queue[str]()

    def handler(candidate: Candidate) -> None:
        entered.set()
        release.wait(60)
        story.put("handed over")

    watcher = Watcher(root, handler, SystemClock())
    watcher.start()
    asking = threading.Thread(target=lambda: story.put(f"found {watcher.scan_now(writer_gone=True)}"))
    try:
        (root / "a.npz").write_bytes(npz(1))
        assert entered.wait(60)
        asking.start()
        asking.join(0.3)  # ample time to come back too soon
        release.set()
        assert [story.get(timeout=60), story.get(timeout=60)] == ["handed over", "found []"]
    finally:
        release.set()
        watcher.stop()


def test_events_wake_and_looking_does_not(root: Path) -> None:
    awake = threading.Event()
    link = root.with_name("link")
    link.symlink_to(root)
    wakeup = Wakeup(link, awake.set)
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
