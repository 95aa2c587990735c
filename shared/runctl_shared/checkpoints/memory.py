"""A store in memory, for tests and the simulation."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runctl_shared.checkpoints.keys import check_key, check_prefix
from runctl_shared.checkpoints.objects import AlreadyExists, ObjectInfo, ObjectMissing
from runctl_shared.clock import Clock, FakeClock


class MemoryStore:
    """An ObjectStore that keeps its objects in `objects` and records every call in `calls`.

    With `honours_conditions=False` it ignores `if_absent`, as some servers do.
    """

    def __init__(self, *, honours_conditions: bool = True, clock: Clock | None = None) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[tuple[str, str]] = []
        self._honours_conditions = honours_conditions
        self._clock = clock or FakeClock()
        self._modified: dict[str, float] = {}
        self._failures: dict[str, list[Exception]] = {}
        self._lock = threading.Lock()

    def fail_once(self, operation: str, error: Exception) -> None:
        """Let the next call of `operation` (the method's name) raise `error`; asked twice, the next two."""
        self._failures.setdefault(operation, []).append(error)

    @property
    def url(self) -> str:
        return "memory://"

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        check_key(key)
        self._begin("put", key)
        self._keep(key, data, if_absent=if_absent and self._honours_conditions)

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        check_key(key)
        self._begin("put_file", key)
        data = path.read_bytes()
        self._keep(key, data, if_absent=False)
        return len(data), hashlib.sha256(data).hexdigest()

    def get(self, key: str) -> bytes:
        self._begin("get", key)
        return self._found(key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        self._begin("get_range", key)
        return self._found(key)[offset : offset + length]

    def get_file(self, key: str, target: BinaryIO) -> tuple[int, str]:
        self._begin("get_file", key)
        data = self._found(key)
        target.write(data)
        return len(data), hashlib.sha256(data).hexdigest()

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        self._begin("list", prefix)
        with self._lock:
            keys = sorted(key for key in self.objects if key.startswith(prefix))
            return iter([ObjectInfo(key, len(self.objects[key]), self._modified[key]) for key in keys])

    def tops(self) -> Iterator[str]:
        self._begin("tops", "")
        with self._lock:
            return iter(sorted({key.split("/", 1)[0] for key in self.objects}))

    def delete(self, key: str) -> None:
        check_key(key)
        self._begin("delete", key)
        with self._lock:
            self.objects.pop(key, None)

    def _begin(self, operation: str, key: str) -> None:
        with self._lock:
            self.calls.append((operation, key))
            failures = self._failures.get(operation)
            if failures:
                raise failures.pop(0)

    def _keep(self, key: str, data: bytes, *, if_absent: bool) -> None:
        with self._lock:
            if if_absent and key in self.objects:
                raise AlreadyExists(f"{key!r} is already there.")
            self.objects[key] = bytes(data)
            self._modified[key] = self._clock.now()

    def _found(self, key: str) -> bytes:
        check_key(key)
        with self._lock:
            if key not in self.objects:
                raise ObjectMissing(f"{key!r} is not there.")
            return self.objects[key]
