"""The training's output, kept in segments of the checkpoint store."""

from __future__ import annotations

import re

from runctl_shared.checkpoints.checks import require_run
from runctl_shared.checkpoints.manifest import log_key
from runctl_shared.checkpoints.objects import ObjectInfo, ObjectStore

SEGMENT = 1 << 20
"""Bytes in a full segment. Only the last one of an attempt is shorter."""

_LOGS = "logs/"
_SEGMENT = re.compile(r"logs/(\d{5})/\d{6}\.log")


class RunLogs:
    """The output of all attempts of `run`, in the run's part of a store.

    Each attempt's output is one stream of bytes; offsets count from its beginning. One writer per attempt.
    """

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._run = run

    def append_segment(self, attempt: int, segment: int, data: bytes) -> None:
        """Store segment number `segment` (from 0), in place of what it was while it was shorter.

        The writer fills a segment to SEGMENT bytes before it begins the next. Raises ValueError for more,
        StoreRefused when nothing of the run is in the store.
        """
        key = log_key(attempt, segment)
        if len(data) > SEGMENT or _SEGMENT.fullmatch(key) is None:
            raise ValueError(f"{len(data)} bytes cannot be {key}")
        require_run(self._store, self._run)
        self._store.put(key, data)

    def read_log(self, attempt: int, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset`; empty beyond the end."""
        pieces, begin, end = [], 0, offset + limit
        for info in self._segments(attempt):
            first, last = max(offset, begin), min(end, begin + info.size)
            if first < last:
                pieces.append(self._store.get_range(info.key, first - begin, last - first))
            begin += info.size
        return b"".join(pieces)

    def log_size(self, attempt: int) -> int:
        """Bytes stored of the attempt's output."""
        return sum(info.size for info in self._segments(attempt))

    def log_attempts(self) -> list[int]:
        """The attempts that have output, in order."""
        matches = (_SEGMENT.fullmatch(info.key) for info in self._store.list(_LOGS))
        return sorted({int(match[1]) for match in matches if match is not None})

    def _segments(self, attempt: int) -> list[ObjectInfo]:
        found = self._store.list(f"{_LOGS}{attempt:05d}/")
        return [info for info in found if _SEGMENT.fullmatch(info.key) is not None]
