"""Reading a file in pieces while counting and hashing what is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from io import FileIO

PIECE = 1 << 20


class HashingReader:
    """Iterate over `file` in pieces of at most a mebibyte; `result` tells what has been read so far.

    Each piece is a view of one buffer and holds good only until the next is asked for.
    """

    def __init__(self, file: FileIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._size = 0

    def __iter__(self) -> Iterator[memoryview]:
        buffer = memoryview(bytearray(PIECE))
        while count := self._file.readinto(buffer):
            piece = buffer[:count]
            self._digest.update(piece)
            self._size += count
            yield piece

    @property
    def result(self) -> tuple[int, str]:
        """Size and SHA-256 (hex) of what was read."""
        return self._size, self._digest.hexdigest()
