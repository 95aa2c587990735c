"""The only place that reads the time of day.

Everything else is handed a :class:`Clock`, so that tests and the simulation own time.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, in seconds."""

    def now(self) -> float:
        """UTC, seconds since 1970. For show and for durable deadlines; it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; never jumps. For durations inside one process."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class FakeClock:
    """A clock that moves only when told to. Both readings advance together; `jump` moves the wall only."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._lock = threading.Lock()
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        with self._lock:
            return self._now

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let `seconds` (not negative) pass."""
        if seconds < 0:
            raise ValueError("time does not run backwards; use jump() for a clock that was set back")
        with self._lock:
            self._now += seconds
            self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back without time having passed."""
        with self._lock:
            self._now += seconds
