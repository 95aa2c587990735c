"""What somebody else's program printed, made harmless for a terminal. Colours and progress bars stay."""

from __future__ import annotations

import codecs
import re

_KEPT = re.compile(r"\x1b\[[0-9;:]*[mKABCDG]")
"""Colours, erasing in the line, and moving the cursor, as progress bars do."""
_COLOUR = re.compile(r"\x1b\[([0-9;:]*)m")
_WHOLE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # window titles, the clipboard and other strings
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]",  # the short ones
)
_HALF = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)")
"""What may become a whole one."""
_DROPPED = re.compile(r"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_LONGEST = 4096
"""Characters after which an escape sequence that does not end is none."""
_PLAIN = b"\x1b[0m"


class Sanitizer:
    """For one stream of bytes, in pieces. Holds a piece's end back while it may be half a character or half
    a sequence. What is no UTF-8 is replaced: a terminal might take single bytes for commands."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._coloured = False

    def feed(self, data: bytes) -> bytes:
        """What of `data`, and of what was held back, may go to the terminal."""
        return self._shown(self._decoder.decode(data), last=False).encode()

    def end(self) -> bytes:
        """The rest: nothing will follow."""
        return self._shown(self._decoder.decode(b"", final=True), last=True).encode() + self.plain()

    def plain(self) -> bytes:
        """What ends the colours that stand, if any do: they must not become those of others' text."""
        coloured, self._coloured = self._coloured, False
        return _PLAIN if coloured else b""

    def _shown(self, text: str, last: bool) -> str:
        text, self._held = self._held + text, ""
        shown = []
        at = 0
        while (escape := text.find("\x1b", at)) >= 0:
            shown.append(_DROPPED.sub("", text[at:escape]))
            whole = _WHOLE.match(text, escape)
            if whole is not None:
                shown.append(self._kept(whole[0]))
                at = whole.end()
            elif not last and len(text) - escape < _LONGEST and _HALF.fullmatch(text, escape):
                self._held = text[escape:]
                at = len(text)
            else:
                at = escape + 1
        shown.append(_DROPPED.sub("", text[at:]))
        return "".join(shown)

    def _kept(self, sequence: str) -> str:
        if not _KEPT.fullmatch(sequence):
            return ""
        if colour := _COLOUR.fullmatch(sequence):
            self._coloured = colour[1].strip("0;:") != ""
        return sequence
