"""The seat: the lock file of a state folder.

Who holds it is the controller that programs ask, and the kernel lets go of it the moment that its process
dies, however it dies: so whoever waits is told at once. It is no permission to write (a stopped process holds
it for ever): that is the store's epoch. A leader that does not answer is therefore replaced together with its
file.
"""

from __future__ import annotations

import fcntl
import os
import select
import threading
from pathlib import Path

from runctl_shared.errors import StoreUnusable

_TRIES, _PAUSE = 10, 0.02


class Seat:
    """The lock file at `path`, seen from this process. Any thread may call; raises StoreUnusable when the
    folder cannot be written to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._file: int | None = None  # while we hold it

    @property
    def is_ours(self) -> bool:
        return self._file is not None

    def take(self) -> bool:
        """Hold it, if nobody else does. (Who only looks, see `holder`, has it for a moment, too.)"""
        for _ in range(_TRIES):
            file = self._opened()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                select.select([], [], [], _PAUSE)
            else:
                if self._sit_down(file):
                    return True
        return False

    def wait(self) -> bool:
        """Block until whoever holds it has died, or put it down. Whether it is ours then: false when the file
        has been replaced meanwhile, by us or by others."""
        file = self._opened()
        fcntl.flock(file, fcntl.LOCK_EX)
        return self._sit_down(file)

    def replace(self) -> None:
        """Put a file of ours in its place: whoever holds the present one is not to be asked any more."""
        fresh = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        fresh.unlink(missing_ok=True)
        file = self._opened(fresh)
        fcntl.flock(file, fcntl.LOCK_EX)
        _sign(file)
        with self._guard:
            os.replace(fresh, self._path)
            old, self._file = self._file, file
        if old is not None:
            os.close(old)

    def keep(self) -> None:
        """See that it still is ours: a file can be removed, or replaced by somebody who came late."""
        if self._file is None or not _is_at(self._file, self._path):
            self.replace()

    def identity(self) -> tuple[int, int] | None:
        """Which file it is that is held, or waited for, at present."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def close(self) -> None:
        """Let go. Idempotent."""
        with self._guard:
            file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _opened(self, path: Path | None = None) -> int:
        try:
            return os.open(path or self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreUnusable(
                f"The state folder {self._path.parent} cannot be written to: {error.strerror}.",
                "Choose another with RUNCTL_STATE_DIR, or mend its permissions.",
            ) from error

    def _sit_down(self, file: int) -> bool:
        """The lock on `file` is ours. Is it still the one that counts?"""
        with self._guard:
            if self._file is None and _is_at(file, self._path):
                _sign(file)
                self._file = file
                return True
        os.close(file)
        return False


def _sign(file: int) -> None:
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def holder(path: Path) -> int | None:
    """The process that holds the lock (0: it does not say); None when nobody does."""
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


def holders(folder: Path) -> tuple[int, ...]:
    """The processes that hold the locks in `folder`, in order; what dead ones left there is removed."""
    found = []
    for path in folder.glob("*") if folder.is_dir() else ():
        process = holder(path)
        if process is None:
            path.unlink(missing_ok=True)
        elif process:
            found.append(process)
    return tuple(sorted(found))
