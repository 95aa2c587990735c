"""One controller per state folder: whoever holds the lock, and nobody after it has died."""

from __future__ import annotations

import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from runctl_controller.service.lock import held, holder
from runctl_shared.errors import RefusedByGuard, StoreUnusable
from runctl_testing import forked
from runctl_testing.eventually import eventually


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "controller.lock"


def test_nobody_holds_it_at_first(lock: Path) -> None:
    assert holder(lock) is None
    assert not lock.exists()


def test_it_is_held_while_the_block_runs_and_names_the_process(lock: Path) -> None:
    with held(lock):
        assert holder(lock) == os.getpid()
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert holder(lock) is None


def test_a_second_one_is_refused_and_told_who_holds_it(lock: Path) -> None:
    with held(lock), pytest.raises(RefusedByGuard, match=rf"process {os.getpid()}\)"), held(lock):
        pass
    with held(lock):
        assert holder(lock) == os.getpid()


def test_a_shorter_number_leaves_nothing_of_the_longer_one(lock: Path) -> None:
    lock.write_text("9" * 30)
    with held(lock):
        assert holder(lock) == os.getpid()


def test_what_is_in_the_file_of_a_dead_one_means_nothing(lock: Path) -> None:
    lock.write_text("1")
    assert holder(lock) is None


def test_the_lock_dies_with_its_process(lock: Path) -> None:
    def hold() -> None:
        with held(lock):
            signal.pause()

    child = forked.start(hold)
    eventually(lambda: holder(lock) == child)
    with pytest.raises(RefusedByGuard, match=str(child)), held(lock):
        pass
    os.kill(child, signal.SIGKILL)
    forked.wait(child)
    with held(lock):
        assert holder(lock) == os.getpid()


def test_whoever_only_looks_does_not_keep_a_controller_from_starting(lock: Path) -> None:
    """A look takes the lock for an instant; many commands look while one controller starts."""
    with held(lock):
        pass
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.0005):  # not all the time: then the lock would hardly ever be free
            holder(lock)

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for looker in lookers:
        looker.start()
    try:
        for _ in range(300):
            with held(lock):
                pass
    finally:
        stop.set()
        for looker in lookers:
            looker.join()


def test_what_is_no_pid_is_an_unknown_holder(lock: Path) -> None:
    with held(lock):
        lock.write_bytes(b"\xff who knows")
        assert holder(lock) == 0
        with pytest.raises(RefusedByGuard, match="unknown"), held(lock):
            pass


def test_a_folder_that_cannot_be_written_to_is_named_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable) as caught, held(tmp_path / "missing" / "controller.lock"):
        pass
    assert str(tmp_path / "missing") in caught.value.what
    assert "RUNCTL_STATE_DIR" in caught.value.mend
