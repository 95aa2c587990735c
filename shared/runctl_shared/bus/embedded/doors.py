"""Doorbells: how processes wake each other, and how the death of one is noticed.

Every connection hangs up a FIFO named after itself and holds it open. To ring is to open it and write a
byte. The kernel closes it whatever way its process ends, SIGKILL included; from then on opening it fails
(ENXIO), and whoever watches it is told at once. So a bell is at the same time proof of life, and nobody
needs to poll, to compare process ids or to trust a clock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator

from runctl_shared.ids import is_id

_NOBODY = (errno.ENXIO, errno.ENOENT)


class Doors:
    """The folder of doorbells that belongs to one bus file; made if need be. Raises OSError."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o700)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from opening the bus meanwhile. The lock is the kernel's: it cannot be left behind."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def hang(self, link: str) -> int:
        """Hang up our own bell; returns the descriptor that becomes readable when it is rung."""
        path = self._path(link)
        os.mkfifo(path, 0o600)
        # For writing too: else it would read as ended whenever no one has it open to ring.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def take_down(self, link: str) -> None:
        if is_id(link):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(link))

    def ring(self, link: str) -> bool:
        """Wake `link` up. False when it is dead."""
        bell = self.watch(link)
        if bell is None:
            return False
        if bell < 0:
            return True
        try:
            os.write(bell, b"!")
        except BlockingIOError:
            pass  # so many rings are waiting already that one more would change nothing
        except BrokenPipeError:
            return False
        finally:
            os.close(bell)
        return True

    def answers(self, link: str) -> bool:
        """Whether `link` lives, without waking it up."""
        bell = self.watch(link)
        if bell is not None and bell >= 0:
            os.close(bell)
        return bell is not None

    def watch(self, link: str) -> int | None:
        """A descriptor that polls as POLLERR once `link` dies; None: it is dead; -1: there is no telling."""
        if not is_id(link):  # it comes out of a file: never let it lead elsewhere
            return None
        try:
            return os.open(self._path(link), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError as error:
            # No descriptors left, say, is a trouble of ours: it does not make the other one dead.
            return None if error.errno in _NOBODY else -1

    def names(self) -> list[str]:
        """Whose bells hang here, the dead ones' included."""
        return [name for name in os.listdir(self._folder) if is_id(name)]

    def _path(self, link: str) -> str:
        return os.path.join(self._folder, link)
