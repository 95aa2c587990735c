"""What happens when, and what has happened: simulated time, and the trace that a failing seed prints."""

from __future__ import annotations

import heapq
from collections.abc import Callable

START = 1_700_000_000.0
"""UTC at the beginning of every simulation."""


class Timeline:
    """Acts in the order of their times; those of one moment in the order in which they were put."""

    def __init__(self) -> None:
        self.now = START
        self.steps = 0
        self.trace: list[tuple[float, str, object]] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def at(self, when: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._heap, (max(when, self.now), self._count, act))

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        self.at(self.now + seconds, act)

    def step(self) -> None:
        """Do what comes next. There always is something: the simulation ends by a bound, not by silence."""
        when, _, act = heapq.heappop(self._heap)
        self.now = when
        self.steps += 1
        act()

    @property
    def next_at(self) -> float:
        return self._heap[0][0] if self._heap else float("inf")

    def note(self, who: str, what: object) -> None:
        """For the trace; formatted only when somebody reads it."""
        self.trace.append((self.now, who, what))

    def tail(self, count: int) -> str:
        """The last `count` items of the trace, for people."""
        lines = [f"{when - START:9.2f}  {who:<14} {_short(what)}" for when, who, what in self.trace[-count:]]
        return "\n".join(lines)


def _short(what: object) -> str:
    text = what if isinstance(what, str) else repr(what)
    return text if len(text) <= 300 else text[:297] + "..."
