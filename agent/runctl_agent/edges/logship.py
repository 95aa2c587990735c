"""The training's output into the checkpoint store, so that it outlives every machine."""

from __future__ import annotations

from collections.abc import Callable

from runctl_shared.checkpoints.logs import SEGMENT
from runctl_shared.clock import Clock

EVERY = 5.0
"""Seconds between two writes of a segment that is still growing."""


class LogShipper:
    """A listener of the output tail. `store(segment, data)` queues one write; it never blocks for long."""

    def __init__(self, clock: Clock, store: Callable[[int, bytes], None]) -> None:
        self._clock, self._store = clock, store
        self._segment = 0
        self._data = bytearray()
        self._stored = 0
        self._last = clock.monotonic()

    def chunk(self, offset: int, data: bytes) -> None:
        if offset == 0:
            self._segment, self._stored = 0, 0
            self._data.clear()
        while data:
            room = SEGMENT - len(self._data)
            self._data += data[:room]
            data = data[room:]
            if len(self._data) == SEGMENT:
                self._write()
                self._segment, self._stored = self._segment + 1, 0
                self._data.clear()
        if self._clock.monotonic() - self._last >= EVERY:
            self._write()

    def pause(self) -> None:
        self._write()

    def end(self) -> None:
        self._write()

    def _write(self) -> None:
        if len(self._data) > self._stored:
            self._stored = len(self._data)
            self._last = self._clock.monotonic()
            self._store(self._segment, bytes(self._data))
