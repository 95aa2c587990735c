"""Writing to a local file system so that it survives the loss of power."""

from __future__ import annotations

import errno
import os
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write fails with when there is no room (EFBIG: a limit on the size of files)."""


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of `data`: one write may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(folder: Path | str) -> None:
    """Make what was created, renamed or removed in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a folder; there is nothing more to be done on them.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_folders(root: Path, folder: Path) -> None:
    """Create `folder` and what is missing between it and `root`, mode 700. Never `root` itself: when that is
    gone (a file system that is not mounted), FileNotFoundError is the truth."""
    if folder == root or folder.is_dir():
        return
    make_folders(root, folder.parent)
    try:
        folder.mkdir(0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    else:
        sync_folder(folder.parent)


def publish(root: Path, temporary: Path, target: Path, *, if_absent: bool) -> None:
    """Give the finished and synced file `temporary` its name, durably and in one step.

    With `if_absent`, raises FileExistsError when the name is taken. `temporary` may be left over.
    """
    for tries_left in (2, 1, 0):
        make_folders(root, target.parent)
        try:
            if if_absent:
                _link(temporary, target)
            else:
                os.rename(temporary, target)
        except FileNotFoundError:
            # Somebody deleted the last object in that folder, and the folder with it.
            if not tries_left:
                raise
        else:
            sync_folder(target.parent)
            return


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileExistsError:
        # A network file system that lost its answer repeats the call, and then finds our own link.
        if not os.path.samestat(os.lstat(temporary), os.lstat(target)):
            raise
