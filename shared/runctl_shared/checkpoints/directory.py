"""Checkpoints in a folder: a local disk or a network file system."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from runctl_shared.checkpoints.durable import FULL, open_regular, publish, write_all
from runctl_shared.checkpoints.hashing import HashingReader
from runctl_shared.checkpoints.keys import TEMPORARIES, check_key, check_prefix, key_problem
from runctl_shared.checkpoints.objects import (
    AlreadyExists,
    ObjectInfo,
    ObjectMissing,
    ObjectStoreError,
    StoreFull,
    StoreRefused,
)
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.draw import new_id

_DEAD_AFTER = 86_400.0
_REFUSED = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class DirectoryStore:
    """An ObjectStore in the folder `root`: one file per object, at the object's key.

    Objects are written beside the tree, synced, and renamed or linked into place; modes are 600 and 700.
    Symbolic links below `root` are refused wherever they are met: they could lead out of it.
    `create`: make `root` when it is missing. Raises StoreRefused when it cannot be used.
    """

    def __init__(self, root: Path, *, create: bool = True, clock: Clock | None = None) -> None:
        self._root = Path(os.path.abspath(root))
        self._temporaries = self._root / TEMPORARIES
        with self._failures():
            if create:
                with suppress(FileExistsError):
                    self._root.mkdir(0o700, parents=True)
            self._require_root()
        self._remove_leftovers((clock or SystemClock()).now())

    @property
    def url(self) -> str:
        return self._root.as_uri()

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._store(key, (data,), if_absent=if_absent)

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        check_key(key)
        with FileIO(open_regular(path)) as source:
            reader = HashingReader(source)
            self._store(key, reader, if_absent=False)
        return reader.result

    def get(self, key: str) -> bytes:
        with self._open(key) as file, self._failures():
            return file.readall()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        with self._open(key) as file, self._failures():
            pieces, at = [], offset
            while piece := os.pread(file.fileno(), offset + length - at, at):
                pieces.append(piece)
                at += len(piece)
            return b"".join(pieces)

    def get_file(self, key: str, target: BinaryIO) -> tuple[int, str]:
        with self._open(key) as file:
            reader = HashingReader(file)
            pieces = iter(reader)
            while True:
                with self._failures():
                    piece = next(pieces, None)
                if piece is None:
                    return reader.result
                target.write(piece)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        folder, slash, start = prefix.rpartition("/")
        return self._walk(self._path(folder) if slash else self._root, folder + slash, start)

    def tops(self) -> Iterator[str]:
        with self._failures():
            names = sorted(os.listdir(self._root))
        return (name for name in names if name != TEMPORARIES and key_problem(name) is None)

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._failures():
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return
        with suppress(OSError):  # up to the first folder that still holds something
            for folder in path.relative_to(self._root).parents:
                if folder.name:
                    (self._root / folder).rmdir()

    def _store(self, key: str, pieces: Iterable[bytes | memoryview], *, if_absent: bool) -> None:
        target = self._path(key)
        temporary, descriptor = self._open_temporary()
        try:
            try:
                # Reading the next piece lies outside: its failures are the source's, not the store's.
                for piece in pieces:
                    with self._failures():
                        write_all(descriptor, piece)
                with self._failures():
                    os.fsync(descriptor)
            finally:
                with self._failures():
                    os.close(descriptor)
            with self._failures():
                self._publish(key, temporary, target, if_absent=if_absent)
        finally:
            with suppress(OSError):
                temporary.unlink()

    def _publish(self, key: str, temporary: Path, target: Path, *, if_absent: bool) -> None:
        try:
            publish(self._root, temporary, target, if_absent=if_absent)
        except FileExistsError:
            raise AlreadyExists(f"{key!r} is already in {self._root}.") from None
        except OSError as error:
            if if_absent and error.errno in _NO_LINKS:
                raise StoreRefused(
                    f"The file system of {self._root} cannot make hard links: {error.strerror}.",
                    "Keep the checkpoints on one that can.",
                ) from error
            raise

    def _open_temporary(self) -> tuple[Path, int]:
        path = self._temporaries / new_id("tmp", 16)
        with self._failures():
            self._temporaries.mkdir(0o700, exist_ok=True)
            return path, os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    @contextmanager
    def _open(self, key: str) -> Iterator[FileIO]:
        path = self._path(key)
        with self._failures():
            try:
                descriptor = open_regular(path, os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                raise ObjectMissing(f"{key!r} is not in {self._root}.") from None
        with FileIO(descriptor) as file:
            yield file

    def _walk(self, folder: Path, above: str, start: str) -> Iterator[ObjectInfo]:
        """Objects below `folder`, whose own key is `above`, with names that begin with `start`."""
        with self._failures():
            try:
                with os.scandir(folder) as found:
                    entries = [entry for entry in found if entry.name.startswith(start)]
            except (FileNotFoundError, NotADirectoryError):
                self._require_root()
                return
            # A folder's own objects sort after `name + "/"`, not after `name`.
            entries.sort(key=lambda e: e.name + "/" if e.is_dir(follow_symlinks=False) else e.name)
        for entry in entries:
            if not above and entry.name == TEMPORARIES:
                continue
            if entry.is_symlink():
                raise self._symlink(entry.path)
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(Path(entry.path), f"{above}{entry.name}/", "")
            elif (info := self._info(entry, above + entry.name)) is not None:
                yield info

    def _info(self, entry: os.DirEntry[str], key: str) -> ObjectInfo | None:
        """What `entry` is as an object; None when it is none, or gone."""
        with self._failures():
            try:
                check_key(key)
                found = entry.stat(follow_symlinks=False)
            except (ValueError, FileNotFoundError):
                return None
        return ObjectInfo(key, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None

    def _path(self, key: str) -> Path:
        """The file of `key`. Raises ValueError for what is no key, StoreRefused for a link on the way."""
        check_key(key)
        path = str(self._root)
        for part in key.split("/"):
            path = os.path.join(path, part)
            if os.path.islink(path):
                raise self._symlink(path)
        return Path(path)

    def _symlink(self, path: str) -> StoreRefused:
        return StoreRefused(
            f"{path!r} in the checkpoint store is a symbolic link, which could lead out of it.",
            "Put what it points to in its place.",
        )

    def _require_root(self) -> None:
        """A store that has gone away (not mounted) must not look like an empty one."""
        try:
            if stat.S_ISDIR(os.stat(self._root).st_mode):
                return
        except (FileNotFoundError, NotADirectoryError):
            raise StoreRefused(
                f"The checkpoint folder {self._root} does not exist.",
                "Create it, or mount the file system that it is on.",
            ) from None
        raise StoreRefused(
            f"{self._root} is not a folder; checkpoints cannot be kept in it.", "Name a folder."
        )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Errors of the file system, as the port names them."""
        try:
            yield
        except OSError as error:
            raise self._as_store_error(error) from error

    def _as_store_error(self, error: OSError) -> ObjectStoreError:
        why = error.strerror or str(error)
        if error.errno in FULL:
            what = f"There is no room left in the checkpoint folder {self._root}: {why}."
            return StoreFull(what, "Make room, or keep the checkpoints elsewhere.")
        if error.errno == errno.ENOENT:
            with self._failures():
                self._require_root()
        if error.errno in _REFUSED:
            what = f"Cannot use {os.fspath(error.filename or self._root)!r} for checkpoints: {why}."
            return StoreRefused(what, "Check its owner and mode, or keep the checkpoints elsewhere.")
        return ObjectStoreError(f"A file operation in the checkpoint folder {self._root} failed: {why}.")

    def _remove_leftovers(self, now: float) -> None:
        """Remove what writers that died left behind; a living one's file is younger."""
        with suppress(OSError), os.scandir(self._temporaries) as found:
            for entry in found:
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_mtime < now - _DEAD_AFTER:
                        os.unlink(entry.path)
