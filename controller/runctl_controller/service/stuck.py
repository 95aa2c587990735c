"""A process that was stopped in the midst of something may hold a lock which everybody needs: on the state,
the bus or the provider. Nothing frees that but its end.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger("runctl.standby")
_PAUSE = 0.5
_PATIENCE = 5.0


def end_if_stuck(pid: int, files: Iterable[Path], still_it: Callable[[], bool]) -> bool:
    """End process `pid` (SIGKILL, which a controller survives like any crash) if it holds one of the locks on
    `files` and does not let go. `still_it`: whether that number still means the process that is meant.
    Whether it is gone then."""
    files = list(files)
    if not holds_one(pid, files):
        return False
    select.select([], [], [], _PAUSE)
    if not holds_one(pid, files):
        return False
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        if not still_it():
            return False
        log.warning("standby.ends-stuck process=%d: it is stopped, and holds what everybody needs", pid)
        signal.pidfd_send_signal(process, signal.SIGKILL)
        return bool(select.select([process], [], [], _PATIENCE)[0])
    except PermissionError:
        log.error("standby.cannot-end process=%d: it belongs to somebody else; end it by hand", pid)
        return False
    finally:
        os.close(process)


def holds_one(pid: int, files: Iterable[Path]) -> bool:
    """Whether the process has an exclusive lock on one of `files`, as the kernel tells (Linux; elsewhere
    nobody can tell, so no)."""
    inodes = set()
    for file in files:
        with suppress(OSError):
            inodes.add(str(file.stat().st_ino))
    with suppress(OSError):
        return any(_is_held(line, str(pid), inodes) for line in Path("/proc/locks").read_text().splitlines())
    return False


def _is_held(line: str, pid: str, inodes: set[str]) -> bool:
    """One line of /proc/locks: ``1: POSIX  ADVISORY  WRITE 4242 fd:01:1179 120 120``; ``->`` marks who waits.
    The device is not compared: some file systems show another one there than stat does."""
    words = line.split()
    return (
        len(words) >= 6
        and words[1] != "->"
        and words[3] == "WRITE"
        and words[4] == pid
        and words[5].rpartition(":")[2] in inodes
    )
