"""Cuts a stream of output into lines and parses as few of them as will do."""

from __future__ import annotations

import re

from runctl_agent.progress.model import Progress
from runctl_agent.progress.parse import MAX_LINE, is_whole_bar, may_hold_progress, parse_line

_BREAK = re.compile(rb"[\r\n]+")
_PER_SECOND = 20.0
_LOOKED_AT = 32  # lines at either end of a chunk that are looked at, at all
_HEAD, _TAIL, _GLANCE = 16 * 1024, 48 * 1024, 4 * 1024  # bytes
_BYTES_PER_SECOND = 512 * 1024


class LineSampler:
    """Of a quiet training every line is parsed. Of a chatty one some 20 a second, and always the last line of
    a chunk that names a step, so that what it stands at now is never missed. Of a large chunk only the
    beginning and the end are looked at, and of one that comes when much has been looked at already, only its
    last _GLANCE bytes: what cannot be kept up with is passed over, never queued. Holds at most one line of
    MAX_LINE bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._rest = b""
        self._too_long = False
        self._allowance = _PER_SECOND
        self._bytes_allowed = float(2 * _BYTES_PER_SECOND)
        self._last_tick: float | None = None
        self.looked_at = 0
        """Bytes that were looked at, at all."""

    def feed(self, data: bytes, tick: float) -> list[Progress]:
        """What the lines that `data` ends say, in order. `tick`: monotonic seconds."""
        self._earn(tick)
        first, *others = self._worth_a_look(data)
        found = self._parse(self._lines(first))
        for piece in others:
            self._rest, self._too_long = b"", True  # what was passed over ends somewhere in it
            found += self._parse(self._lines(piece))
        return found

    def _worth_a_look(self, data: bytes) -> list[bytes]:
        """All of `data` if it is not much, else the pieces of it between which something is passed over."""
        if len(data) <= _GLANCE or len(data) <= min(self._bytes_allowed, _HEAD + _TAIL):
            pieces = [data]
        elif self._bytes_allowed >= _HEAD + _TAIL:
            pieces = [data[:_HEAD], data[-_TAIL:]]
        else:
            pieces = [b"", data[-_GLANCE:]]
        size = sum(map(len, pieces))
        self.looked_at += size
        self._bytes_allowed = max(0.0, self._bytes_allowed - size)
        return pieces

    def _lines(self, data: bytes) -> list[bytes]:
        """The lines that `data` ends."""
        *lines, rest = _BREAK.split(self._rest + data)
        if lines and self._too_long:
            del lines[0]
            self._too_long = False
        if len(rest) > MAX_LINE:
            rest, self._too_long = b"", True
        # What follows a line that was too long is too long as well, until it ends.
        self._rest = b"" if self._too_long else rest
        return lines

    def pause(self) -> list[Progress]:
        """Nothing came for a while: a bar waits unfinished for the next one, and may be read as it stands.
        Any other unfinished line may end in the middle of a number, and is left alone."""
        if self._rest and is_whole_bar(self._rest):
            line, self._rest = self._rest, b""
            return _found(line)
        return []

    def end(self) -> list[Progress]:
        """Nothing will follow: the last line needs no end."""
        line, self._rest = self._rest, b""
        return _found(line)

    def _earn(self, tick: float) -> None:
        passed = 0.0 if self._last_tick is None else max(0.0, tick - self._last_tick)
        self._allowance = min(_PER_SECOND, self._allowance + passed * _PER_SECOND)
        limit = 2 * _BYTES_PER_SECOND
        self._bytes_allowed = min(limit, self._bytes_allowed + passed * _BYTES_PER_SECOND)
        self._last_tick = tick

    def _parse(self, lines: list[bytes]) -> list[Progress]:
        if len(lines) > 2 * _LOOKED_AT:
            lines = lines[:_LOOKED_AT] + lines[-_LOOKED_AT:]
        promising = [line for line in lines if may_hold_progress(line)]
        # One is kept for the last line. The first ones come before the others: the first step of an attempt
        # must not be missed.
        some = max(0, min(len(promising) - 1, int(self._allowance) - 1))
        found = [progress for line in promising[:some] for progress in _found(line)]
        rest = promising[some:]
        self._allowance = max(0.0, self._allowance - some - min(1, len(rest)))
        return found + _newest(rest)


def _newest(lines: list[bytes]) -> list[Progress]:
    """What the last line says, and before it, should it name no step, what the last one says that does: the
    steps of a training that died are followed by lines of its program, which only look like progress."""
    newest: list[Progress] = []
    for line in reversed(lines[-_LOOKED_AT:]):
        for progress in _found(line):
            if progress.step is not None:
                return [progress, *newest]
            newest = newest or [progress]
    return newest


def _found(line: bytes) -> list[Progress]:
    progress = parse_line(line)
    return [] if progress is None else [progress]
