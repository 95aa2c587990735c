"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable

Draw = Callable[[float, float], float]
"""A random number between two bounds."""


class Backoff:
    """Exponential back-off with full jitter, in seconds.

    Full jitter (anything from nothing to the bound) because a broker that comes back meets its whole fleet
    at once, and a fleet that waits in step knocks it over again.
    """

    def __init__(self, base: float = 0.5, cap: float = 30.0, draw: Draw | None = None) -> None:
        self._base = base
        self._cap = cap
        self._draw = draw or random.SystemRandom().uniform
        self._failures = 0

    def next(self) -> float:
        """The wait after one more failure."""
        bound = min(self._cap, self._base * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return self._draw(0.0, bound)

    def slow(self) -> float:
        """The wait after a refusal, which only a person can mend: never short, whatever came before."""
        return self._draw(self._cap / 2, self._cap)

    def reset(self) -> None:
        """It worked: the next failure is the first again."""
        self._failures = 0
