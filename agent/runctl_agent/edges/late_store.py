"""The checkpoint store, opened when it is first needed: an agent must come up while it cannot be reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runctl_shared.checkpoints.objects import ObjectInfo, ObjectStore
from runctl_shared.checkpoints.open import open_store


class LateStore:
    """The store at `url`, as ObjectStore says. Every method also raises what `open_store` raises, until that
    has worked once. It is never made here: a store that is not there is a wrong one, not an empty one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._opened: ObjectStore | None = None

    @property
    def url(self) -> str:
        return self._url

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._store.put(key, data, if_absent=if_absent)

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        return self._store.put_file(key, path)

    def get(self, key: str) -> bytes:
        return self._store.get(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._store.get_range(key, offset, length)

    def get_file(self, key: str, target: BinaryIO) -> tuple[int, str]:
        return self._store.get_file(key, target)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._store.list(prefix)

    def tops(self) -> Iterator[str]:
        return self._store.tops()

    def delete(self, key: str) -> None:
        self._store.delete(key)

    @property
    def _store(self) -> ObjectStore:
        if self._opened is None:
            self._opened = open_store(self._url, create=False)
        return self._opened
