"""Files on a local file system: read as files only, written so that they survive the loss of power."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What a write fails with when there is no room (EFBIG: a limit on the size of files)."""

_TRIES = 100


def open_regular(path: Path, flags: int = 0) -> int:
    """A descriptor to read the file `path`. Raises FileNotFoundError for what is not a regular file."""
    # A pipe in a file's place must not block.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | flags)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "Not a regular file", str(path))


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
        # Made by another just now, or a file; if it is gone again, this raises FileNotFoundError.
        if not stat.S_ISDIR(os.stat(folder).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    else:
        sync_folder(folder.parent)


def publish(root: Path, temporary: Path, target: Path, *, if_absent: bool) -> None:
    """Give the finished and synced file `temporary` its name, durably and in one step.

    With `if_absent`, raises FileExistsError when the name is taken. `temporary` may be left over.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            make_folders(root, target.parent)
            if if_absent:
                _link(temporary, target)
            else:
                os.rename(temporary, target)
            break
        except FileNotFoundError:
            # Whoever deletes the last object in a folder removes the folder, perhaps just now.
            if not tries_left:
                raise
    with suppress(FileNotFoundError):  # deleted already, folder and all
        sync_folder(target.parent)


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target, follow_symlinks=False)
    except FileExistsError:
        # A network file system that lost its answer repeats the call, and then finds our own link.
        if not os.path.samestat(os.lstat(temporary), os.lstat(target)):
            raise
