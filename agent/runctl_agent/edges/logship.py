"""The training's output into the checkpoint store, so that it outlives every machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from runctl_shared.checkpoints.logs import SEGMENT, RunLogs
from runctl_shared.clock import Clock

EVERY = 5.0
"""Seconds between two writes of a segment that is still growing: each stores all of it again."""


class StoredOutput:
    """What the store has of the output in `path`. One thread's. Raises ObjectStoreError and OSError: called
    again, it goes on where it was."""

    def __init__(self, logs: RunLogs, attempt: int, path: Path) -> None:
        self._logs, self._attempt, self._path = logs, attempt, path
        self._stored = 0

    def bring_up_to(self, size: int) -> None:
        """Store the output up to byte `size` at least, segment by segment."""
        if size < self._stored:
            self._stored = 0  # the file began anew
        while self._stored < size:
            segment = self._stored // SEGMENT
            with self._path.open("rb") as file:
                file.seek(segment * SEGMENT)
                data = file.read(SEGMENT)
            end = segment * SEGMENT + len(data)
            if end <= self._stored:
                return
            self._logs.append_segment(self._attempt, segment, data)
            self._stored = end


class LogShipper:
    """A listener of the output tail that says when there is output to store. `store(size)`: the first `size`
    bytes of the output are to be in the store; it must not block. It holds no output itself: while a large
    checkpoint is uploaded, a chatty training may print more than there is memory.
    """

    def __init__(self, clock: Clock, store: Callable[[int], None]) -> None:
        self._clock, self._store = clock, store
        self._lock = threading.Lock()
        self._size = 0
        self._told = 0
        self._last = clock.monotonic() - EVERY

    def chunk(self, offset: int, data: bytes) -> None:
        with self._lock:
            if offset == 0:
                self._told = 0
            self._size = offset + len(data)
            full = self._size // SEGMENT > self._told // SEGMENT
        self._ship(at_once=full)

    def pause(self) -> None:
        """Called in silences, and now and then by whoever has a timer: it is what stores the last lines."""
        self._ship()

    def end(self) -> None:
        self._ship(at_once=True)

    def _ship(self, at_once: bool = False) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if self._size <= self._told or not (at_once or now >= self._last + EVERY):
                return
            self._told, self._last = self._size, now
            size = self._size
        self._store(size)
