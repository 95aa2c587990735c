"""What somebody else's program printed, made harmless for a terminal. Colours and progress bars stay."""

from __future__ import annotations

import re

_KEPT = re.compile(rb"\x1b\[[0-9;:]*[mKABCDG]")
"""Colours, erasing in the line, and moving the cursor, as progress bars do."""
_WHOLE = re.compile(
    rb"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences
    rb"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles, the clipboard and other strings
    rb"|\x1b[ -/]*[0-OQ-WYZ\\`-~]",  # the short ones
)
_DROPPED = re.compile(rb"[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]|\xc2[\x80-\x9f]")
_LONGEST = 4096
"""Bytes after which an escape sequence that does not end is none."""


class Sanitizer:
    """For one stream of bytes, in pieces. Holds a piece's end back while it may be half a sequence."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """What of `data`, and of what was held back, may go to the terminal."""
        data, self._held = self._held + data, b""
        if data.endswith(b"\xc2"):
            data, self._held = data[:-1], b"\xc2"
        shown = []
        at = 0
        while (escape := data.find(b"\x1b", at)) >= 0:
            shown.append(_DROPPED.sub(b"", data[at:escape]))
            whole = _WHOLE.match(data, escape)
            if whole is not None:
                shown.append(whole[0] if _KEPT.fullmatch(whole[0]) else b"")
                at = whole.end()
            elif len(data) - escape < _LONGEST:
                self._held = data[escape:] + self._held
                at = len(data)
            else:
                at = escape + 1
        shown.append(_DROPPED.sub(b"", data[at:]))
        return b"".join(shown)
