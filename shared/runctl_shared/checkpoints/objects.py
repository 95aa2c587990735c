"""Where checkpoints are kept: a small port over object stores and directories.

Keys are ``/``-separated relative paths made of ``[A-Za-z0-9._=@+-]`` words and, in data keys, of the file
names that the training chose. No key leads out of the store: ``..``, empty and absolute parts are refused
with ValueError by every implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from runctl_shared.errors import RunctlError


class ObjectStoreError(RunctlError):
    """The store failed; trying again later may help."""

    exit_code = 5
    code = "store"


class ObjectMissing(ObjectStoreError):
    """There is no object of that key."""


class AlreadyExists(ObjectStoreError):
    """A conditional put found an object of that key: somebody was first."""


class StoreFull(ObjectStoreError):
    """No room left (or no quota): only a person can mend that."""


class StoreRefused(ObjectStoreError):
    """No permission, no such bucket, not a directory: only a person can mend that."""


FOR_A_PERSON = (AlreadyExists, StoreFull, StoreRefused)
"""Failures that trying again does not mend."""


class ObjectInfo(msgspec.Struct, frozen=True):
    """One listed object: its key, size in bytes and time of last change (UTC seconds; for show only)."""

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """Durable objects by key. A put that returned survives the loss of the machine that called it.

    Readers never see half an object: it is there whole or not at all.
    """

    @property
    def url(self) -> str: ...

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        """Store `data`. With `if_absent`, exactly one of several concurrent callers succeeds, the others get
        AlreadyExists. Raises StoreFull, StoreRefused, ObjectStoreError."""
        ...

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        """Store the file's content as it is read; returns (size, SHA-256 in hex) of what was stored.
        Raises FileNotFoundError when `path` is gone, else as `put`."""
        ...

    def get(self, key: str) -> bytes:
        """The whole object. Raises ObjectMissing."""
        ...

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; empty beyond the end. Raises ObjectMissing."""
        ...

    def get_file(self, key: str, target: BinaryIO) -> tuple[int, str]:
        """Write the object into `target`; returns (size, SHA-256 in hex) of what was read.
        Raises ObjectMissing."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object whose key begins with `prefix`, in order of key. Complete, or it raises."""
        ...

    def tops(self) -> Iterator[str]:
        """The first parts of all keys, each once, in order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; no error when it is not there."""
        ...
