"""Room that is kept back on the disk: the last things are written also when the training has filled it."""

from __future__ import annotations

import os
from pathlib import Path

SIZE = 4 << 20
"""Bytes: as much as the spool's own journal grows to before SQLite cuts it."""


class Reserve:
    """A file that holds the room. Nothing here raises: without room to keep, there is none to give."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self) -> None:
        """Keep the room, if there is any."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, SIZE)
        except OSError:
            self.release()
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Give the room back; False when none was kept."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
