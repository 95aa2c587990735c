"""A part of a store, as a store of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runctl_shared.checkpoints.keys import check_key
from runctl_shared.checkpoints.objects import ObjectInfo, ObjectStore


class PrefixedStore:
    """The objects of `store` below `folder`, under keys relative to it. Nothing outside can be reached."""

    def __init__(self, store: ObjectStore, folder: str) -> None:
        check_key(folder)
        self._store = store
        self._above = folder + "/"

    @property
    def url(self) -> str:
        return self._store.url.rstrip("/") + "/" + self._above.rstrip("/")

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        self._store.put(self._above + key, data, if_absent=if_absent)

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        return self._store.put_file(self._above + key, path)

    def get(self, key: str) -> bytes:
        return self._store.get(self._above + key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        return self._store.get_range(self._above + key, offset, length)

    def get_file(self, key: str, target: BinaryIO) -> tuple[int, str]:
        return self._store.get_file(self._above + key, target)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        found = self._store.list(self._above + prefix)
        above = len(self._above)
        return (ObjectInfo(info.key[above:], info.size, info.modified) for info in found)

    def tops(self) -> Iterator[str]:
        last = ""
        for info in self.list(""):
            first = info.key.split("/", 1)[0]
            if first != last:
                yield first
            last = first

    def delete(self, key: str) -> None:
        self._store.delete(self._above + key)
