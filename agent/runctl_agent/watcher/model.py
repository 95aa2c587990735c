"""What the watcher hands over, and how one version of a checkpoint is told from another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import msgspec

from runctl_agent.formats.base import FileStamp


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A complete checkpoint, as it was when it was found: compare each file with its stamp after reading it.

    `root_name`: the file or folder in the checkpoint directory. `files`: paths relative to the checkpoint
    directory. `signed`: a sign of its format's own shows that it is whole; otherwise only that nobody was
    writing to it, which of a training that was killed says little. `written_at`: when its newest file was
    last written, UTC seconds. `version`: changes with any file's size, time of change or name.
    """

    version: str
    root_name: str
    single_file: bool
    files: tuple[FileStamp, ...]
    format: str
    signed: bool
    step: int | None
    epoch: float | None
    written_at: float


class Busy(msgspec.Struct, frozen=True):
    """A candidate that somebody writes to. `files` as in Candidate, only their paths."""

    root_name: str
    files: tuple[str, ...]


class Unfinished(msgspec.Struct, frozen=True):
    """A candidate that was never complete, and why. `written_at` as in Candidate."""

    root_name: str
    why: str
    size: int
    written_at: float


class Stamped(Protocol):
    """What counts of a file: a FileStamp has it, and so has a manifest's entry."""

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def mtime_ns(self) -> int: ...


def version_of(root_name: str, files: Iterable[Stamped]) -> str:
    """The version that `files` are of `root_name`. Without inodes: a restored copy is the same version."""
    digest = hashlib.sha256(root_name.encode())
    for file in sorted(files, key=lambda file: file.path):
        digest.update(f"\0{file.path}\0{file.size}\0{file.mtime_ns}".encode())
    return digest.hexdigest()[:32]
