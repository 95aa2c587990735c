"""From the training's output to where it stands: a listener of the output tail."""

from __future__ import annotations

import threading
from collections.abc import Callable

from runctl_agent.progress.model import Progress
from runctl_agent.progress.sampler import LineSampler
from runctl_agent.progress.series import LossSeries
from runctl_agent.progress.tracker import ProgressTracker
from runctl_shared.clock import Clock


class ProgressFeed:
    """A `trainer.output.Listener`. Keeps `tracker` up to date and calls `changed` (if given) after each
    batch of news, from the tail's thread. `lock` guards the tracker: hold it while reading several values."""

    def __init__(self, clock: Clock, changed: Callable[[], None] | None = None) -> None:
        self.tracker = ProgressTracker()
        self.losses = LossSeries()
        self.lock = threading.Lock()
        self._clock = clock
        self._changed = changed
        self._sampler = LineSampler()

    def chunk(self, offset: int, data: bytes) -> None:
        self._take(self._sampler.feed(data, self._clock.monotonic()))

    def pause(self) -> None:
        self._take(self._sampler.pause())

    def end(self) -> None:
        self._take(self._sampler.end())
        self.losses.end(self.tracker, self._clock.monotonic())

    def _take(self, found: list[Progress]) -> None:
        if not found:
            return
        wall, tick = self._clock.now(), self._clock.monotonic()
        with self.lock:
            for progress in found:
                self.tracker.observe(progress, wall=wall, tick=tick)
                self.losses.observe(progress, self.tracker, wall=wall, tick=tick)
        if self._changed is not None:
            self._changed()
