"""What lies in the checkpoint directory, and the port that every format implements."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec


class FileStamp(msgspec.Struct, frozen=True, order=True):
    """One file as it was found: `path` relative to the checkpoint directory (/-separated), `size` in bytes.

    Two equal stamps mean: nobody changed or replaced the file in between.
    """

    path: str
    size: int
    mtime_ns: int
    inode: int


class Entry(msgspec.Struct, frozen=True):
    """One top-level entry of the checkpoint directory `folder`: a file, or a folder with all files below it.

    `files` are ordered by path and never empty; a single file is its own only one.
    """

    folder: Path
    name: str
    single_file: bool
    files: tuple[FileStamp, ...]

    def path_of(self, file: FileStamp) -> Path:
        return self.folder / file.path


class Verdict(msgspec.Struct, frozen=True):
    """Whether a checkpoint is complete, and if not, why not."""

    complete: bool
    reason: str = ""


COMPLETE = Verdict(True)


def incomplete(reason: str) -> Verdict:
    return Verdict(False, reason)


class Format(Protocol):
    """How one layout shows that a checkpoint is complete. Stateless; reads, never writes, never unpickles.

    `signed`: the layout has a sign of its own that a half-written one lacks, so that no quiet period is
    needed. Every method may raise OSError when the files cannot be read (they may vanish at any time).
    """

    @property
    def name(self) -> str: ...

    @property
    def signed(self) -> bool: ...

    def recognise(self, entry: Entry) -> bool:
        """Whether `entry` is of this layout; cheap: by its name and at most its first bytes."""
        ...

    def check(self, entry: Entry) -> Verdict:
        """Whether it is complete and undamaged, as far as the layout can tell. May read all of it."""
        ...

    def step(self, entry: Entry) -> int | None:
        """The training step it holds; None when neither content nor name say so. Of a complete one only."""
        ...

    def epoch(self, entry: Entry) -> float | None:
        """The epoch it holds; None when unknown. Of a complete one only."""
        ...
