"""Cuts a stream of output into lines and parses as few of them as will do."""

from __future__ import annotations

import re

from runctl_agent.progress.model import Progress
from runctl_agent.progress.parse import MAX_LINE, is_whole_bar, may_hold_progress, parse_line

_BREAK = re.compile(rb"[\r\n]+")
_PER_SECOND = 20.0
_LOOKED_AT = 32  # lines at either end of a chunk that are looked at, at all


class LineSampler:
    """Of a quiet training every line is parsed. Of a chatty one some 20 a second, and always the last line of
    a chunk that looks like progress, so that what it stands at now is never missed. Holds at most one line of
    MAX_LINE bytes. Not thread-safe."""

    def __init__(self) -> None:
        self._rest = b""
        self._too_long = False
        self._allowance = _PER_SECOND
        self._last_tick: float | None = None

    def feed(self, data: bytes, tick: float) -> list[Progress]:
        """What the lines that `data` ends say, in order. `tick`: monotonic seconds."""
        *lines, rest = _BREAK.split(self._rest + data)
        if lines and self._too_long:
            del lines[0]
            self._too_long = False
        if len(rest) > MAX_LINE:
            rest, self._too_long = b"", True
        # What follows a line that was too long is too long as well, until it ends.
        self._rest = b"" if self._too_long else rest
        return self._parse(lines, tick)

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

    def _parse(self, lines: list[bytes], tick: float) -> list[Progress]:
        if self._last_tick is not None:
            earned = max(0.0, tick - self._last_tick) * _PER_SECOND
            self._allowance = min(_PER_SECOND, self._allowance + earned)
        self._last_tick = tick
        if len(lines) > 2 * _LOOKED_AT:
            lines = lines[:_LOOKED_AT] + lines[-_LOOKED_AT:]
        promising = [line for line in lines if may_hold_progress(line)]
        # One is kept for the last line. The first ones come before the others: the first step of an attempt
        # must not be missed.
        some = max(0, min(len(promising) - 1, int(self._allowance) - 1))
        chosen = promising[:some] + promising[-1:]
        self._allowance = max(0.0, self._allowance - len(chosen))
        return [progress for line in chosen for progress in _found(line)]


def _found(line: bytes) -> list[Progress]:
    progress = parse_line(line)
    return [] if progress is None else [progress]
