"""Bringing the newest intact checkpoint back, whole or not at all."""

from __future__ import annotations

import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from runctl_shared.checkpoints.checks import load_manifest, require_run
from runctl_shared.checkpoints.durable import FULL, sync_folder
from runctl_shared.checkpoints.hashing import HashingReader
from runctl_shared.checkpoints.manifest import FileEntry, Manifest, ManifestDamaged, NameParts, data_key
from runctl_shared.checkpoints.objects import ObjectMissing, ObjectStore
from runctl_shared.checkpoints.upload import ShouldStop, Stopped
from runctl_shared.clock import Clock
from runctl_shared.errors import RunctlError
from runctl_shared.units import format_bytes

log = logging.getLogger("runctl.checkpoints")

_UNFINISHED = ".restoring-"


class RestoreFailed(RunctlError):
    """The folder to restore into has no room, or cannot be written to. The store is not to blame."""

    code = "restore"


class NothingIntact(RunctlError):
    """There were checkpoints and every one is damaged. To begin anew is for somebody else to decide.

    `damaged` names them, newest first, each with the reason.
    """

    code = "damaged"

    def __init__(self, damaged: tuple[tuple[str, str], ...]) -> None:
        first = damaged[0][1]
        count = f"All {len(damaged)} checkpoints are" if len(damaged) > 1 else "The only checkpoint is"
        super().__init__(f"{count} damaged: {first}", "Repair the store, or begin a new run.")
        self.damaged = damaged


class Restored(msgspec.Struct, frozen=True):
    """What was restored: `path` is the file or folder to hand to the training, `seconds` is how long it took,
    `damaged` are the newer ones that were passed over, each with the reason."""

    manifest: Manifest
    path: Path
    seconds: float
    damaged: tuple[tuple[str, str], ...]


class Restore:
    """Restores checkpoints of `run` out of `store` into folders below `target`."""

    def __init__(
        self, store: ObjectStore, run: str, clock: Clock, target: Path, should_stop: ShouldStop
    ) -> None:
        self._store = store
        self._run = run
        self._clock = clock
        self._target = target
        self._should_stop = should_stop

    def newest(self, candidates: Iterable[NameParts]) -> Restored | None:
        """See RunRepository.restore."""
        started = self._clock.monotonic()
        damaged: list[tuple[str, str]] = []
        with _local_failures(self._target):
            self._target.mkdir(0o700, parents=True, exist_ok=True)
            self._remove_leftovers()
        for candidate in candidates:
            try:
                manifest = load_manifest(self._store, self._run, candidate.name)
                with _local_failures(self._target):
                    folder = self._bring(manifest)
            except (ManifestDamaged, ObjectMissing) as error:
                require_run(self._store, self._run)
                log.warning("restore.damaged run=%s name=%s why=%s", self._run, candidate.name, error.what)
                damaged.append((candidate.name, error.what))
                continue
            seconds = self._clock.monotonic() - started
            return Restored(manifest, folder / manifest.root, seconds, tuple(damaged))
        if damaged:
            raise NothingIntact(tuple(damaged))
        return None

    def _bring(self, manifest: Manifest) -> Path:
        final = self._target / manifest.id
        if is_intact(final, manifest):
            _set_times(final, manifest)
            return final
        self._check_sizes(manifest)
        self._check_room(manifest)
        temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._target))
        try:
            for entry in manifest.files:
                self._download(manifest.id, entry, temporary)
            _set_times(temporary, manifest)
            for folder, _, _ in os.walk(temporary):
                sync_folder(folder)
            self._move_away(final)
            os.rename(temporary, final)
            sync_folder(self._target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def _download(self, checkpoint: str, entry: FileEntry, folder: Path) -> None:
        path = folder / entry.path
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with _Target(io.FileIO(descriptor, "wb"), self._should_stop) as file:
            size, sha256 = self._store.get_file(data_key(checkpoint, entry.path), file)
            file.flush()
            os.fsync(descriptor)
        problem = content_problem(entry, size, sha256)
        if problem is not None:
            raise ManifestDamaged(problem)

    def _check_sizes(self, manifest: Manifest) -> None:
        """One listing finds what is missing or cut short, before anything is downloaded."""
        above = data_key(manifest.id, "")
        sizes = {info.key: info.size for info in self._store.list(above)}
        for entry in manifest.files:
            size = sizes.get(above + entry.path)
            if size is None:
                raise ManifestDamaged(f"{entry.path!r} is missing.")
            if size != entry.size:
                raise ManifestDamaged(size_problem(entry, size))

    def _check_room(self, manifest: Manifest) -> None:
        free = shutil.disk_usage(self._target).free
        if free < manifest.size:
            need = format_bytes(manifest.size)
            raise RestoreFailed(
                f"The checkpoint needs {need} in {self._target}, and {format_bytes(free)} are free there.",
                "Make room, or use a larger disk.",
            )

    def _move_away(self, final: Path) -> None:
        """An earlier copy that is no longer what was committed. Never deleted in place: a crash would leave a
        part of it where a whole checkpoint is looked for."""
        if os.path.lexists(final):
            away = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._target))
            os.rename(final, away / "old")
            shutil.rmtree(away, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for path in self._target.glob(_UNFINISHED + "*"):
            shutil.rmtree(path, ignore_errors=True)


class _Target(io.BufferedWriter):
    """A file that asks before each piece whether to go on."""

    def __init__(self, raw: io.FileIO, should_stop: ShouldStop) -> None:
        super().__init__(raw)
        self._should_stop = should_stop

    def write(self, data: object, /) -> int:
        if self._should_stop():
            raise Stopped("The restore was stopped.")
        return super().write(data)  # type: ignore[arg-type]  # whatever the base class takes


def size_problem(entry: FileEntry, size: int) -> str:
    return f"{entry.path!r} has {size} bytes where {entry.size} were committed."


def content_problem(entry: FileEntry, size: int, sha256: str) -> str | None:
    """Why a file of `size` and `sha256` is not what was committed as `entry`; None when it is."""
    if size != entry.size:
        return size_problem(entry, size)
    return None if sha256 == entry.sha256 else f"{entry.path!r} is not what was committed: its hash differs."


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether `folder` already holds every file of `manifest`, byte for byte, and none of them elsewhere."""
    real = os.path.realpath(folder.parent)
    for entry in manifest.files:
        path = folder / entry.path
        if os.path.realpath(path) != os.path.join(real, folder.name, entry.path) or not path.is_file():
            return False
        if path.stat().st_size != entry.size:
            return False
        with io.FileIO(path) as file:
            reader = HashingReader(file)
            for _ in reader:
                pass
        if reader.result[1] != entry.sha256:
            return False
    return True


def _set_times(folder: Path, manifest: Manifest) -> None:
    """Some frameworks take the file that was changed last for the newest checkpoint."""
    for entry in manifest.files:
        os.utime(folder / entry.path, ns=(entry.mtime_ns, entry.mtime_ns))


@contextmanager
def _local_failures(target: Path) -> Iterator[None]:
    """Stores never raise OSError from what they read, so one that is seen here is the target's."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in FULL:
            raise RestoreFailed(
                f"There is no room left in {target}: {why}.", "Make room, or use a larger disk."
            ) from error
        raise RestoreFailed(
            f"Cannot restore into {target}: {why}.", "Check its owner and mode, or use another."
        ) from error
