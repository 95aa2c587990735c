"""A disk so small that a test can fill it. Needs root; where that is not to be had, the test is skipped."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_DETACH = 2
_OWNER = "runctl-test-"
"""What our mounts are called in the kernel's table, with the test process's id: what a killed test run leaves
is unmounted by its guard."""
_PIECE = 64 * 1024


class SmallDisk:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Take all the room there is but `leave` bytes."""
        found = os.statvfs(self.path)
        self._take(found.f_bavail * found.f_frsize - leave if leave else None)

    def free(self) -> None:
        """Give it all back."""
        self._ballast.unlink(missing_ok=True)

    @contextmanager
    def kept_full(self) -> Iterator[None]:
        """Whatever room others make is taken at once."""
        over = threading.Event()

        def hog() -> None:
            while not over.wait(0.005):
                self._take(None)

        thread = threading.Thread(target=hog)
        self._take(None)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.free()

    def _take(self, wanted: int | None) -> None:
        left = 1 << 40 if wanted is None else wanted
        with self._ballast.open("ab", buffering=0) as file:
            for piece in (_PIECE, 512):  # the last page as well
                try:
                    while left >= piece:
                        left -= file.write(bytes(piece))
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[SmallDisk]:
    """A file system of that size at the folder `path`, made if need be; gone at the end, with all in it."""
    path.mkdir(parents=True, exist_ok=True)
    libc = _libc()
    target, options = os.fsencode(path), b"mode=700,size=%dm" % megabytes
    if libc.mount(f"{_OWNER}{os.getpid()}".encode(), target, b"tmpfs", 0, options) != 0:
        pytest.skip(f"a small file system cannot be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield SmallDisk(path)
    finally:
        libc.umount2(target, _DETACH)


def remove_leftovers(of: int) -> None:
    """Unmount what the test process `of` has mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if f"{_OWNER}{of}" in after.split():
            _libc().umount2(before.split()[4].encode().decode("unicode_escape").encode(), _DETACH)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
