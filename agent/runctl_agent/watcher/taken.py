"""Which versions need not be taken (again); kept in a file, so that a restarted agent knows them too."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from runctl_agent.formats.base import Entry

log = logging.getLogger("runctl.watcher")

_LINE = re.compile(r"([+-])([0-9a-f]{32})")

Inodes = tuple[int, ...]


class Taken:
    """Versions that were handed over (in memory) and those that are committed (in the file as well).

    The file has one line for each commit and each change of mind, so that a crash costs at most the last
    line. A version's inodes are remembered from its first sight on: a file that was replaced by another one
    of the same size and time is not what was taken.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._committed: set[str] = set()
        self._inodes: dict[str, Inodes] = {}
        self._handed: set[str] = set()
        for sign, version in _LINE.findall(_text_of(file)):
            (self._committed.add if sign == "+" else self._committed.discard)(version)

    def knows(self, version: str, entry: Entry) -> bool:
        """Whether `entry`, which is now at `version`, has been handed over or committed."""
        if version not in self._handed and version not in self._committed:
            return False
        return self._inodes.setdefault(version, _inodes(entry)) == _inodes(entry)

    def hand_over(self, version: str, entry: Entry) -> None:
        self._handed.add(version)
        self._inodes[version] = _inodes(entry)

    def commit(self, version: str) -> None:
        """Raises OSError when it cannot be written down; it is remembered until the restart all the same."""
        new = version not in self._committed
        self._committed.add(version)
        if new:
            self._write("+" + version)

    def forget(self, version: str) -> None:
        """Raises OSError as `commit` does."""
        old = version in self._committed
        self._handed.discard(version)
        self._committed.discard(version)
        self._inodes.pop(version, None)
        if old:
            self._write("-" + version)

    def _write(self, line: str) -> None:
        if self._file is not None:
            with self._file.open("a") as file:
                # A line that a crash has cut short must not swallow this one.
                file.write(f"\n{line}\n" if file.tell() else f"{line}\n")


def _inodes(entry: Entry) -> Inodes:
    return tuple(file.inode for file in entry.files)


def _text_of(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        log.warning("watcher.memory_unreadable path=%s why=%s", file, error)
        return ""
