"""The sign that zip archives carry: they end with their table of contents, and have a CRC for each member."""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runctl_agent.formats.base import COMPLETE, Verdict, incomplete

ALL_BYTES = 1 << 30
"""Archives up to this size are read whole and every CRC checked (about half a second of one core); of larger
ones each member's beginning: the upload reads all of them once more anyway."""

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,  # a compression that does not exist
    RuntimeError,  # encrypted, or so it seems
    ValueError,
    OverflowError,
    IndexError,
)
"""The ways in which zipfile complains about bytes that are not an archive."""

_MAGIC = b"PK\x03\x04"


def looks_like_zip(path: Path) -> bool:
    """By its first bytes. Raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive at `path`. Raises OSError, or one of DAMAGED."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Its table of contents names a place before the beginning of the file.
            raise zipfile.BadZipFile("its table of contents is damaged") from error


def check_members(archive: zipfile.ZipFile, size: int) -> Verdict:
    """Whether every member is there, by its CRC up to ALL_BYTES. Raises OSError, or one of DAMAGED."""
    if size <= ALL_BYTES:
        broken = archive.testzip()
        return COMPLETE if broken is None else incomplete(f"its part {broken[:100]!r} is damaged")
    for info in archive.infolist():
        with archive.open(info) as member:
            member.read(64)
    return COMPLETE
