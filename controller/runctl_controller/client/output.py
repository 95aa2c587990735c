"""Putting a run's output together from pieces that may come doubled, late, or not at all. Pure."""

from __future__ import annotations

MOST_WAITING = 8 << 20
"""Bytes kept beyond a gap; what is dropped is in the checkpoint store, or can be asked for again."""


class OutputStream:
    """The output of the attempts of one run, one attempt after the other, each byte once.

    It stands at `offset` of the output of `attempt`. Pieces beyond that wait until what is missing has come.
    """

    def __init__(self, attempt: int = 1, offset: int = 0) -> None:
        self.attempt, self.offset = attempt, offset
        self._waiting: dict[int, dict[int, bytes]] = {}
        self._size = 0

    @property
    def gap(self) -> bool:
        """Whether something of the present attempt is missing: later pieces of it have come."""
        return bool(self._waiting.get(self.attempt))

    def has(self, attempt: int) -> bool:
        """Whether anything of `attempt` has come that is still to be shown."""
        return bool(self._waiting.get(attempt))

    def take(self, attempt: int, offset: int, data: bytes) -> bytes:
        """A piece came: what can be shown now."""
        if attempt < self.attempt or (attempt == self.attempt and offset + len(data) <= self.offset):
            return b""
        pieces = self._waiting.setdefault(attempt, {})
        if len(data) > len(pieces.get(offset, b"")) and self._size + len(data) <= MOST_WAITING:
            self._size += len(data) - len(pieces.get(offset, b""))
            pieces[offset] = data
        return self._advance()

    def skip(self) -> tuple[int, bytes]:
        """Give up what is missing of the present attempt: how many bytes, and what can be shown then."""
        pieces = self._waiting.get(self.attempt)
        if not pieces:
            return 0, b""
        missing = min(pieces) - self.offset
        self.offset += missing
        return missing, self._advance()

    def begin(self, attempt: int) -> bytes:
        """Go on with a later attempt, from its beginning: what can be shown of it."""
        for number in [n for n in self._waiting if n < attempt]:
            self._size -= sum(map(len, self._waiting.pop(number).values()))
        self.attempt, self.offset = attempt, 0
        return self._advance()

    def _advance(self) -> bytes:
        pieces = self._waiting.get(self.attempt, {})
        shown = []
        for offset in sorted(pieces):
            if offset > self.offset:
                break
            data = pieces.pop(offset)
            self._size -= len(data)
            if offset + len(data) > self.offset:
                shown.append(data[self.offset - offset :])
                self.offset = offset + len(data)
        return b"".join(shown)
