"""The files beside a training that let another agent take it over. `minder.py` writes them; this reads them.

`STATE` says which process it is, `STATE.exit` how it ended, and `STATE.lock` is locked for as long as its
minder lives and has not yet written `STATE.exit`.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from runctl_shared.errors import StoreUnusable


@dataclass(frozen=True)
class Record:
    """A training: its process and its minder's, each as (id, start time), and the boot they are of."""

    pid: int
    start: int
    minder: int
    minder_start: int
    boot: str


@dataclass(frozen=True)
class Exit:
    """How a training ended: by `code`, by `signal`, or, with neither, in a way that nobody saw."""

    code: int | None = None
    signal: int | None = None


def exit_path(state: Path) -> Path:
    return state.with_name(state.name + ".exit")


def lock_path(state: Path) -> Path:
    return state.with_name(state.name + ".lock")


def read_record(state: Path) -> Record | None:
    """None when no training was recorded. Raises StoreUnusable when the file makes no sense."""
    fields = _read(state)
    if fields is None:
        return None
    try:
        pid, start, minder, its_start = (int(fields[n]) for n in ("pid", "start", "minder", "minder_start"))
        return Record(pid, start, minder, its_start, fields["boot"])
    except (KeyError, ValueError):
        raise _damaged(state) from None


def read_exit(state: Path) -> Exit | None:
    """None while none is recorded. Raises StoreUnusable when the file makes no sense."""
    path = exit_path(state)
    fields = _read(path)
    if fields is None:
        return None
    try:
        return Exit(int(fields["code"])) if "code" in fields else Exit(None, int(fields["signal"]))
    except (KeyError, ValueError):
        raise _damaged(path) from None


def forget(state: Path) -> None:
    """Remove what an earlier training left. The lock file stays, since others may wait at it."""
    for path in (state, exit_path(state)):
        for each in (path, path.with_name(path.name + ".tmp")):
            each.unlink(missing_ok=True)


def take_lock(state: Path) -> int:
    """The file descriptor of the lock, held. Raises BlockingIOError while a training has it."""
    fd = os.open(lock_path(state), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def is_locked(state: Path) -> bool:
    """Whether a minder lives that has not yet written an exit."""
    return not _pass_lock(state, fcntl.LOCK_NB)


def wait_unlocked(state: Path) -> None:
    """Return when the minder has written the exit or is gone. Sleeps in the kernel."""
    _pass_lock(state, 0)


def _pass_lock(state: Path, flags: int) -> bool:
    try:
        fd = os.open(lock_path(state), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | flags)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def _read(path: Path) -> dict[str, str] | None:
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise _damaged(path) from None
    pairs = (line.partition("=") for line in text.split("\n") if line)
    return {name: value for name, _, value in pairs}


def _damaged(path: Path) -> StoreUnusable:
    return StoreUnusable(
        f"The record of the training in {str(path)!r} cannot be read.",
        "End this machine and resume the run: its checkpoints are safe.",
    )
