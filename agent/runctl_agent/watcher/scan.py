"""The checkpoint directory as it is now: one Entry for each checkpoint that may be there."""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runctl_agent.formats.base import Entry, FileStamp

log = logging.getLogger("runctl.watcher")

_TEMPORARY = re.compile(
    r"\..*"  # hidden
    r"|.*~"
    r"|.*\.(tmp|temp|part|partial|incomplete|lock|orbax-checkpoint-tmp.*)"
    r"|.*\.tmp\..*"  # NumPy adds its own suffix to what it is given: x.tmp.npz
    r"|tmp[a-z0-9_]{8}(\..*)?"  # Python's tempfile
    r"|tmp-.*",
    re.DOTALL,
)


def is_temporary(name: str) -> bool:
    """Whether a top-level entry of this name is still being made, by the habits of those who make them."""
    return _TEMPORARY.fullmatch(name) is not None


class Scan(msgspec.Struct, frozen=True):
    """Every possible checkpoint by its name; and by name, why one cannot be looked at."""

    entries: dict[str, Entry]
    unreadable: dict[str, str]


def scan(folder: Path) -> Scan:
    """What is in `folder` now; nothing when there is no such folder.

    Passed over: temporary names, symbolic links at the top (last.ckpt is a second name of another one),
    names that are not UTF-8, whatever is neither file nor folder. What vanishes meanwhile is not there.
    Raises OSError when the folder itself cannot be read.
    """
    found = Scan({}, {})
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return found
    for name in names:
        try:
            entry = None if is_temporary(name) else look_at(folder, name)
        except OSError as error:
            # One that cannot be read must not hide the others.
            found.unreadable[name] = error.strerror or str(error)
        else:
            if entry is not None:
                found.entries[name] = entry
    return found


def look_at(folder: Path, name: str) -> Entry | None:
    """The entry of that name; None when it is not there or is no checkpoint. Raises OSError."""
    if not _is_text(name):
        return None
    path = folder / name
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(found.st_mode):
        return Entry(folder, name, True, (_stamp(name, found),))
    if not stat.S_ISDIR(found.st_mode):
        return None
    files = tuple(sorted(_files_below(folder, name)))
    return Entry(folder, name, False, files) if files else None


def _files_below(folder: Path, name: str) -> Iterator[FileStamp]:
    """All files below the folder `name`, temporary names included: a name that comes or goes is a change."""
    home = os.path.realpath(folder)
    todo = [name]
    while todo:
        below = todo.pop()
        try:
            with os.scandir(folder / below) as listed:
                entries = list(listed)
        except (FileNotFoundError, NotADirectoryError):
            continue  # removed meanwhile: the next scan says what is left
        for entry in entries:
            path = f"{below}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                todo.append(path)
            elif (found := _stat(entry, path, home)) is not None:
                yield _stamp(path, found)


def _stat(entry: os.DirEntry[str], path: str, home: str) -> os.stat_result | None:
    """What a file's stamp is made of; None for what is not a file of this checkpoint directory."""
    try:
        inside = _is_text(path) and (not entry.is_symlink() or _leads_inside(entry.path, home))
        found = entry.stat() if inside else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:  # a link to itself is a link to nowhere
            raise
        return None
    if found is None:
        log.debug("watcher.passed_over path=%r why=leads_out_or_not_text", path)
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def _leads_inside(path: str, home: str) -> bool:
    return os.path.realpath(path).startswith(home + os.sep)


def _is_text(name: str) -> bool:
    """Manifests are JSON: a name that is not UTF-8 cannot be written into one."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stamp(path: str, found: os.stat_result) -> FileStamp:
    return FileStamp(path, found.st_size, found.st_mtime_ns, found.st_ino)
