"""One controller per state folder: whoever holds the lock, and nobody after it has died."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest

from runctl_controller.service import lock as module
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


def test_whoever_only_looks_does_not_keep_a_controller_from_starting(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look has the lock for an instant; many commands look while one controller starts."""
    looker = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(looker, fcntl.LOCK_SH)
    waits: list[object] = []

    def wait(*arguments: object) -> None:
        waits.append(arguments)
        fcntl.flock(looker, fcntl.LOCK_UN)

    monkeypatch.setattr(module, "select", SimpleNamespace(select=wait))
    with held(lock):
        assert len(waits) == 1
    os.close(looker)


def test_two_that_look_at_once_do_not_see_each_other(lock: Path) -> None:
    looker = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(looker, fcntl.LOCK_SH)
    assert holder(lock) is None
    os.close(looker)


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
