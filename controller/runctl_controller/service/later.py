"""Calling something after a while, without a thread that waits for each."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable

from runctl_shared.clock import Clock

log = logging.getLogger("runctl.later")


class Later:
    """One thread, made with the first call; what it calls must not block. Usable from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closing = False
        self._thread: threading.Thread | None = None

    def call(self, seconds: float, act: Callable[[], None]) -> None:
        """Call `act` in so many seconds, unless closed before."""
        with self._changed:
            if self._closing:
                return
            heapq.heappush(self._due, (self._clock.monotonic() + seconds, next(self._order), act))
            self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="runctl-later", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Forget what is not due yet."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while (act := self._next()) is not None:
            try:
                act()
            except Exception:  # one that fails must not keep the others from being called
                log.exception("later.failed")

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closing:
                wait = self._due[0][0] - self._clock.monotonic() if self._due else None
                if wait is not None and wait <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(wait)
        return None
