"""What the keeper remembers of the versions that were handed to it: in which order, and how they failed."""

from __future__ import annotations

import msgspec

FIRST_WAIT, LONGEST_WAIT = 10.0, 300.0
"""Seconds for which a version that could not be stored is left alone: the first time, and at most."""
REMEMBERED = 1000
"""Versions that could not be stored; few of them ever come back. Those that wait for their first try are all
remembered, however many: one that lost its place would count as newer than the others."""


class _Known(msgspec.Struct):
    number: int
    failures: int = 0
    reason: str = ""


class Versions:
    """Not for use by several threads at once."""

    def __init__(self) -> None:
        self._last = 0
        self._known: dict[str, _Known] = {}

    def number(self, version: str) -> int:
        """Its place in the order of the first hand-over, which it keeps when it comes again."""
        return self._of(version).number

    def failed(self, version: str, reason: str) -> tuple[bool, float]:
        """It could not be stored: whether the reason is news, and how many seconds to leave it alone."""
        known = self._of(version)
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(known.failures, 20))
        news = reason != known.reason
        known.failures, known.reason = known.failures + 1, reason
        self._forget_old_failures()
        return news, wait

    def done(self, version: str) -> int:
        """It is stored: its number. Should it ever come again, it is another one of the same looks."""
        number = self._of(version).number
        del self._known[version]
        return number

    def _of(self, version: str) -> _Known:
        known = self._known.get(version)
        if known is None:
            self._last += 1
            known = self._known[version] = _Known(self._last)
        return known

    def _forget_old_failures(self) -> None:
        failed = [version for version, known in self._known.items() if known.failures]
        for version in failed[: max(0, len(failed) - REMEMBERED)]:
            del self._known[version]
