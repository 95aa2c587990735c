"""The live tail: the training's output over the bus, only while somebody asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("runctl.follow")
PIECE = 48 * 1024
BACKLOG = 4 << 20
"""Bytes; a follower that is further behind skips ahead: the whole output is in the checkpoint store."""


class Follower:
    """One thread's. `send(offset, data)` passes a piece on."""

    def __init__(self, path: Path, send: Callable[[int, bytes], None]) -> None:
        self._path, self._send = path, send
        self._until = 0.0
        self._cursor = 0

    def follow(self, seconds: float, offset: int | None, now: float) -> None:
        """Go on for so long; from `offset` on, or from where it is."""
        if offset is not None:
            self._cursor = offset
        elif now > self._until:
            self._cursor = self._size()
        self._until = max(self._until, now + seconds)

    def pump(self, now: float) -> None:
        """Pass on what has been printed since."""
        if now > self._until:
            return
        size = self._size()
        if size - self._cursor > BACKLOG:
            self._cursor = size - BACKLOG // 4
        if size <= self._cursor:
            return
        try:
            with self._path.open("rb") as file:
                file.seek(self._cursor)
                while self._cursor < size and (data := file.read(PIECE)):
                    self._send(self._cursor, data)
                    self._cursor += len(data)
        except OSError as error:
            log.warning("follow.unreadable %s", error)

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0
