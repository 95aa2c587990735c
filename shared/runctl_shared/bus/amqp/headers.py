"""Headers that pika cannot read cost the headers, not the connection.

Whoever may publish chooses them. A time beyond the year 9999, a number that is none or lists within lists
make pika raise where it reads frames, which ends the connection; the broker hands the message out again, and
so on. Nothing of ours depends on a sender's headers.
"""

from __future__ import annotations

import struct
from typing import Any

from pika import data

UNREADABLE = {"x-runctl-unreadable": True}
_read = data.decode_table


def decode_table(encoded: bytes, offset: int) -> tuple[dict[Any, Any], int]:
    """As pika's own; of a table that it cannot read, no more than that. Raises struct.error for one that is
    cut off: then the broker itself is broken."""
    try:
        return _read(encoded, offset)  # type: ignore[no-any-return]  # pika has no types
    except Exception:
        (size,) = struct.unpack_from(">I", encoded, offset)
        return dict(UNREADABLE), offset + 4 + size


def install() -> None:
    """For every connection of this process: pika has no place for it. Repeated calls change nothing."""
    data.decode_table = decode_table
