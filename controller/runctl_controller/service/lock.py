"""One controller per state folder."""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runctl_shared.errors import RefusedByGuard, StoreUnusable

_TRIES, _PAUSE = 10, 0.02


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock while the block runs; the file says which process does. Raises RefusedByGuard when
    another process holds it, StoreUnusable when the folder cannot be written to."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnusable(
            f"The state folder {path.parent} cannot be written to: {error.strerror}.",
            "Choose another with RUNCTL_STATE_DIR, or mend its permissions.",
        ) from error
    try:
        if not _taken(file):
            raise RefusedByGuard(
                f"A controller is running already (process {holder(path) or 'unknown'}).",
                "`runctl controller status` shows it; `runctl controller stop` ends it.",
            )
        os.ftruncate(file, 0)
        os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)


def _taken(file: int) -> bool:
    """Whether the lock is ours now. Who only looks (`holder`) holds it for a moment, too."""
    for _ in range(_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            select.select([], [], [], _PAUSE)
        else:
            return True
    return False


def holder(path: Path) -> int | None:
    """The process that holds the lock; None when nobody does."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.pread(file, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    else:
        return None
    finally:
        os.close(file)
