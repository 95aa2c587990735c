"""The seat: whoever holds it, and nobody after it has died; and how it is taken from who does not answer."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import threading
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

from runctl_controller.client.embedded import reach
from runctl_controller.service import lock as module
from runctl_controller.service.lock import Seat, holder, holders
from runctl_controller.settings.model import Settings
from runctl_shared.errors import NoController, StoreUnusable
from runctl_shared.messages.replies import RunList
from runctl_shared.messages.requests import ListRuns
from runctl_testing import forked
from runctl_testing.eventually import eventually


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "controller.lock"


def _hold(lock: Path) -> None:
    """For a child: hold it until killed."""
    assert Seat(lock).take()
    signal.pause()


def test_nobody_holds_it_at_first(lock: Path) -> None:
    assert holder(lock) is None
    assert not lock.exists()


def test_it_is_held_until_it_is_put_down_and_names_the_process(lock: Path) -> None:
    with closing(Seat(lock)) as seat:
        assert seat.take()
        assert holder(lock) == os.getpid()
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert holder(lock) is None


def test_a_second_one_does_not_get_it(lock: Path) -> None:
    first, second = Seat(lock), Seat(lock)
    assert first.take()
    assert not second.take()
    first.close()
    assert second.take()
    second.close()


def test_a_shorter_number_leaves_nothing_of_the_longer_one(lock: Path) -> None:
    lock.write_text("9" * 30)
    with closing(Seat(lock)) as seat:
        assert seat.take()
        assert holder(lock) == os.getpid()


def test_what_is_in_the_file_of_a_dead_one_means_nothing(lock: Path) -> None:
    lock.write_text("1")
    assert holder(lock) is None


def test_who_waits_has_it_the_moment_its_holder_is_killed(lock: Path) -> None:
    """A standby that is not told of a death would leave the machines alone for a whole lease."""
    child = forked.start(lambda: _hold(lock))
    eventually(lambda: holder(lock) == child)
    with closing(Seat(lock)) as seat:
        assert not seat.take()
        waiter = threading.Thread(target=seat.wait)
        waiter.start()
        os.kill(child, signal.SIGKILL)
        forked.wait(child)
        waiter.join(30)
        assert seat.is_ours
        assert holder(lock) == os.getpid()


def test_it_is_taken_from_a_stopped_process_which_stays_without_it(lock: Path) -> None:
    """A stopped leader holds its lock for ever; asked is who replaced it, also after it has woken and
    died."""
    child = forked.start(lambda: _hold(lock))
    eventually(lambda: holder(lock) == child)
    os.kill(child, signal.SIGSTOP)
    with closing(Seat(lock)) as seat:
        assert not seat.take()
        seat.replace()
        assert holder(lock) == os.getpid()
        os.kill(child, signal.SIGCONT)
        os.kill(child, signal.SIGKILL)
        forked.wait(child)
        assert holder(lock) == os.getpid()
    assert holder(lock) is None


def test_who_waited_for_a_file_that_was_replaced_has_not_got_the_new_one(
    lock: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two leaders by the seat: one that got the old file, one that put a new one in its place."""
    old, waiting, new = Seat(lock), Seat(lock), Seat(lock)
    assert old.take()
    has_opened = threading.Event()
    flock = fcntl.flock

    def waits(file: int, how: int) -> None:
        has_opened.set()
        flock(file, how)

    got: list[bool] = []
    waiter = threading.Thread(target=lambda: got.append(waiting.wait()))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", waits)
        waiter.start()
        assert has_opened.wait(30)
    new.replace()
    old.close()
    waiter.join(30)
    assert got == [False]
    assert holder(lock) == os.getpid()
    new.close()
    assert holder(lock) is None


def test_a_file_that_was_removed_or_replaced_is_put_back_by_its_leader(lock: Path) -> None:
    """A late standby, or a hand, takes the file away: nobody would find the leader any more."""
    with closing(Seat(lock)) as seat, closing(Seat(lock)) as late:
        assert seat.take()
        before = seat.identity()
        seat.keep()
        assert seat.identity() == before
        late.replace()
        seat.keep()
        late.close()
        assert holder(lock) == os.getpid()
        lock.unlink()
        seat.keep()
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
    with closing(Seat(lock)) as seat:
        assert seat.take()
        assert len(waits) == 1
    os.close(looker)


def test_two_that_look_at_once_do_not_see_each_other(lock: Path) -> None:
    looker = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(looker, fcntl.LOCK_SH)
    assert holder(lock) is None
    os.close(looker)


def test_what_is_no_pid_is_an_unknown_holder(lock: Path) -> None:
    with closing(Seat(lock)) as seat:
        assert seat.take()
        lock.write_bytes(b"\xff who knows")
        assert holder(lock) == 0


def test_those_that_live_are_listed_and_what_the_dead_left_is_removed(tmp_path: Path) -> None:
    """`controller status` would name standbys that do not exist."""
    folder = tmp_path / "standbys"
    assert holders(folder) == ()
    folder.mkdir()
    (folder / "1").write_text("1")
    with closing(Seat(folder / "2")) as seat:
        assert seat.take()
        assert holders(folder) == (os.getpid(),)
        assert not (folder / "1").exists()
    assert holders(folder) == ()


def test_a_folder_that_cannot_be_written_to_is_named_with_a_mend(tmp_path: Path) -> None:
    with pytest.raises(StoreUnusable) as caught:
        Seat(tmp_path / "missing" / "controller.lock").take()
    assert str(tmp_path / "missing") in caught.value.what
    assert "RUNCTL_STATE_DIR" in caught.value.mend


def test_who_is_not_answered_is_told_of_one_that_stands_by(tmp_path: Path) -> None:
    """The advice to start a controller in the seconds in which a standby is about to take over."""
    settings = Settings(state_dir=str(tmp_path), bus_url=f"sqlite://{tmp_path / 'bus.db'}")
    folder = tmp_path / "standbys"
    folder.mkdir()

    def advice() -> str:
        with reach(settings) as client, pytest.raises(NoController) as raised:
            client.ask(ListRuns(), RunList, timeout=0.1)
        return raised.value.mend

    assert "`runctl controller start` starts one" in advice()
    with closing(Seat(folder / "2")) as seat:
        seat.take()
        assert f"Process {os.getpid()} stands by and takes over within about 15 s" in advice()
    assert "`runctl controller start` starts one" in advice()
