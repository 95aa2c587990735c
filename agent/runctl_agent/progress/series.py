"""How the loss went: a series of points that stays small however long and chatty the training is."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

from runctl_agent.progress.model import Kind, Progress
from runctl_agent.progress.tracker import ProgressTracker
from runctl_shared.checkpoints.series import SEGMENT, Point

_SLOWER_AFTER = 8
"""Segments after which only half as many points a second are taken."""
_MOST_HELD = 16
"""Segments that wait for a store that is away; of more, the oldest are given up."""


class LossSeries:
    """At first one loss a second at the most is taken, after 4096 points one in two seconds, and so on: an
    hour is kept by the second, a month in some 40,000 points. A loss that stops being a number is always
    taken. For any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: list[list[Point]] = [[]]
        self._first = 0  # the number of the first one held
        self._stored = 0  # points of that one which the store has
        self._last: tuple[float, float] | None = None  # when the last point was taken, and its loss
        self._waiting: tuple[float, float] | None = None  # a loss whose step is still to be told

    def observe(self, progress: Progress, tracker: ProgressTracker, *, wall: float, tick: float) -> None:
        """A line said `progress`, and `tracker` has been told. `wall`: UTC, `tick`: monotonic seconds."""
        with self._lock:
            if self._waiting is not None and (progress.step is not None or progress.loss is not None):
                (at, loss), self._waiting = self._waiting, None
                self._take(tracker, loss, at, tick)
            if progress.loss is None:
                return
            alone = progress.step is None and tracker.kind in (None, Kind.BAR)
            if alone:
                # The Hugging Face Trainer prints the loss of a step before the bar that shows the step.
                self._waiting = (wall, progress.loss)
            else:
                self._take(tracker, progress.loss, wall, tick)

    def end(self, tracker: ProgressTracker, tick: float) -> None:
        """Nothing will follow."""
        with self._lock:
            if self._waiting is not None:
                (at, loss), self._waiting = self._waiting, None
                self._take(tracker, loss, at, tick)

    @property
    def news(self) -> bool:
        """Whether the store lacks something."""
        with self._lock:
            return len(self._segments) > 1 or len(self._segments[0]) > self._stored

    def unstored(self) -> Sequence[tuple[int, Sequence[Point]]]:
        """What the store does not have yet: segments, each with its number and all its points so far."""
        with self._lock:
            return [
                (self._first + n, tuple(points))
                for n, points in enumerate(self._segments)
                if len(points) > (self._stored if n == 0 else 0)
            ]

    def stored(self, segment: int, points: int) -> None:
        """The store has the first `points` points of that segment, and everything before."""
        with self._lock:
            if segment < self._first:
                return
            del self._segments[: segment - self._first]
            self._first, self._stored = segment, points

    def go_on(self, segments: int, last: Point | None) -> None:
        """The store has `segments` segments of an agent before us, up to the point `last`. What that agent
        has read of the output was read again."""
        if not segments:
            return
        with self._lock:
            known = -1 if last is None or last.step is None else last.step
            self._segments = [
                [p for p in points if p.step is not None and p.step > known] for points in self._segments
            ]
            self._first += segments

    def _take(self, tracker: ProgressTracker, loss: float, wall: float, tick: float) -> None:
        if self._last is not None:
            since, before = tick - self._last[0], self._last[1]
            pace = 2.0 ** ((self._first + len(self._segments) - 1) // _SLOWER_AFTER)
            broke = math.isfinite(before) and not math.isfinite(loss)
            if since < pace and not broke:
                return
        if len(self._segments[-1]) >= SEGMENT:
            self._segments.append([])
            if len(self._segments) > _MOST_HELD:
                del self._segments[0]
                self._first, self._stored = self._first + 1, 0
        self._segments[-1].append(Point(step=tracker.step, time=wall, epoch=tracker.epoch, loss=loss))
        self._last = (tick, loss)
