"""The series of losses into the checkpoint store, where it outlives every machine."""

from __future__ import annotations

from runctl_agent.progress.series import LossSeries
from runctl_shared.checkpoints.series import RunSeries

EVERY = 30.0
"""Seconds between two writes of a segment that is still growing: each stores all of it again."""


class StoredLosses:
    """What the store has of `series`. One thread's. Raises ObjectStoreError: called again, it goes on."""

    def __init__(self, series: LossSeries, store: RunSeries, attempt: int) -> None:
        self._series, self._store, self._attempt = series, store, attempt
        self._looked = False

    def bring_up(self) -> None:
        """Store what has come since."""
        if not self._looked:
            known = self._store.read(self._attempt)
            self._series.go_on(self._store.segments(self._attempt), known[-1] if known else None)
            self._looked = True
        for segment, points in self._series.unstored():
            self._store.put_segment(self._attempt, segment, points)
            self._series.stored(segment, len(points))
