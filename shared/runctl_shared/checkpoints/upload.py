"""Committing a checkpoint: data first, the manifest last, and nothing that changed under our hands."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from runctl_shared import __version__
from runctl_shared.checkpoints.checks import LATEST, layout_problem, require_run
from runctl_shared.checkpoints.manifest import (
    FileEntry,
    Manifest,
    data_key,
    encode,
    manifest_name,
    parse_name,
)
from runctl_shared.checkpoints.objects import ObjectStore, ObjectStoreError
from runctl_shared.clock import Clock
from runctl_shared.errors import RunctlError

log = logging.getLogger("runctl.checkpoints")

ShouldStop = Callable[[], bool]


def never() -> bool:
    """For whoever does not want to stop."""
    return False


class ChangedDuringUpload(RunctlError):
    """A file was written to, replaced or removed while it was read; what was uploaded has been discarded."""

    code = "changed"


class Stopped(RunctlError):
    """`should_stop` said so; what was done until then has been undone."""

    code = "stopped"


class Stamp(Protocol):
    """A file as it was when the checkpoint was found complete.

    `path` is relative to the checkpoint directory, /-separated; `size` in bytes.
    """

    @property
    def path(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def mtime_ns(self) -> int: ...

    @property
    def inode(self) -> int: ...


class LocalFile(msgspec.Struct, frozen=True):
    """A Stamp made by `snapshot`."""

    path: str
    size: int
    mtime_ns: int
    inode: int


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be committed; the fields are those of Manifest. `id` is fresh: ``new_id("ck")``.

    `root` is one of the files if `single_file`, else the folder above all of them ("." for the checkpoint
    directory itself).
    """

    id: str
    attempt: int
    sequence: int
    step: int | None
    epoch: float | None = None
    format: str
    root: str
    single_file: bool
    trigger: str = "periodic"
    written_at: float
    world_size: int = 1

    @property
    def name(self) -> str:
        return manifest_name(self.attempt, self.sequence, self.step, self.id)


def snapshot(base: Path, paths: Iterable[str]) -> tuple[LocalFile, ...]:
    """The files at `paths` under `base`, as they are now. Raises FileNotFoundError."""
    return tuple(_as_it_is(base, path) for path in paths)


def check_draft(draft: Draft, files: Sequence[Stamp]) -> None:
    """Raise ValueError for what could be stored but not found or restored again."""
    parts = parse_name(draft.name)
    # A number too large for its field, or an odd id, makes a name that no listing would recognise.
    if parts is None or (parts.attempt, parts.sequence, parts.step) != (
        draft.attempt,
        draft.sequence,
        draft.step,
    ):
        raise ValueError(f"{draft.name!r} cannot name a checkpoint")
    problem = layout_problem(draft.root, draft.single_file, [file.path for file in files])
    if problem is not None:
        raise ValueError(f"checkpoint {draft.id}: {problem}")


class Upload:
    """One checkpoint on its way into `store`."""

    def __init__(self, store: ObjectStore, run: str, clock: Clock, should_stop: ShouldStop) -> None:
        self._store = store
        self._run = run
        self._clock = clock
        self._should_stop = should_stop
        self._written: list[str] = []

    def commit(self, draft: Draft, base: Path, files: Sequence[Stamp]) -> Manifest:
        """See RunRepository.commit."""
        started = self._clock.monotonic()
        try:
            entries = tuple(self._put(draft.id, base, file) for file in files)
            self._check_stop()
            for file in files:
                _require_unchanged(base, file)
            # What lies in a folder whose file system has gone away meanwhile is not in the store.
            require_run(self._store, self._run)
        except BaseException:
            self._discard()
            raise
        manifest = self._manifest(draft, entries, self._clock.monotonic() - started)
        # From here on nothing is discarded: a put that seems to have failed may have stored the manifest.
        self._store.put(manifest.name, encode(manifest), if_absent=True)
        return manifest

    def _put(self, checkpoint: str, base: Path, file: Stamp) -> FileEntry:
        self._check_stop()
        key = data_key(checkpoint, file.path)
        self._written.append(key)
        try:
            size, sha256 = self._store.put_file(key, base / file.path)
        except FileNotFoundError:
            raise _changed(file) from None
        if size != file.size:
            raise _changed(file)
        # A time that could not be given back would make a manifest that counts as damaged.
        return FileEntry(file.path, size, sha256, min(max(0, file.mtime_ns), LATEST - 1))

    def _check_stop(self) -> None:
        if self._should_stop():
            raise Stopped("The upload was stopped.")

    def _discard(self) -> None:
        for key in self._written:
            try:
                self._store.delete(key)
            except ObjectStoreError as error:
                # Data without a manifest is never restored; it only takes room.
                log.warning("upload.left_over run=%s key=%r why=%s", self._run, key, error)
                return

    def _manifest(self, draft: Draft, files: tuple[FileEntry, ...], seconds: float) -> Manifest:
        return Manifest(
            run=self._run,
            files=files,
            committed_at=self._clock.now(),
            upload_seconds=seconds,
            runctl=__version__,
            **msgspec.structs.asdict(draft),
        )


def _as_it_is(base: Path, path: str) -> LocalFile:
    found = os.stat(base / path)
    return LocalFile(path, found.st_size, found.st_mtime_ns, found.st_ino)


def _require_unchanged(base: Path, file: Stamp) -> None:
    try:
        now = _as_it_is(base, file.path)
        same = (now.size, now.mtime_ns, now.inode) == (file.size, file.mtime_ns, file.inode)
    except FileNotFoundError:
        same = False
    if not same:
        raise _changed(file)


def _changed(file: Stamp) -> ChangedDuringUpload:
    return ChangedDuringUpload(
        f"{file.path!r} changed while it was uploaded.", "The checkpoint is taken again once it is complete."
    )
