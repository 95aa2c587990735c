"""Where a training stands, as its output tells. Pure: told of each line's progress and when it was seen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from runctl_agent.progress.model import Kind, Progress

_HISTORY = 2048  # sightings kept; thinned out, never cut off, so that old checkpoints still find their step
_RATE_OVER = 60.0  # seconds


@dataclass(frozen=True)
class _Sighting:
    wall: float
    tick: float
    step: int


class ProgressTracker:
    """Follows one attempt's training. Only the strongest kind of step seen so far counts: a bar's counter
    starts over with every epoch, and is forgotten once a line names the step itself."""

    def __init__(self) -> None:
        self.step: int | None = None
        self.total: int | None = None
        self.epoch: float | None = None
        self.loss: float | None = None
        self.first_step: int | None = None
        """The first one reported in this attempt: what proves a resume."""
        self._kind: Kind | None = None
        self._history: list[_Sighting] = []
        self._recent: deque[_Sighting] = deque(maxlen=256)

    @property
    def kind(self) -> Kind | None:
        """How much `step` and `first_step` are worth: below ITERATION they may count within an epoch only."""
        return self._kind

    def observe(self, progress: Progress, *, wall: float, tick: float) -> None:
        """A line seen at `wall` (UTC seconds) and `tick` (monotonic seconds) said `progress`."""
        self.epoch = progress.epoch if progress.epoch is not None else self.epoch
        self.loss = progress.loss if progress.loss is not None else self.loss
        if progress.step is not None and self._counts(progress):
            self._take(progress, _Sighting(wall, tick, progress.step))

    def rate(self) -> float | None:
        """Steps a second over about the last minute of reports; None until two reports tell one."""
        if len(self._recent) < 2:
            return None
        first, last = self._recent[0], self._recent[-1]
        return (last.step - first.step) / (last.tick - first.tick) if last.tick > first.tick else None

    def step_before(self, wall: float) -> int | None:
        """The last step seen at or before `wall` (UTC seconds); None when none was. Errs low: a line is seen
        up to a second after it was printed, and old sightings are thinned out."""
        for sighting in reversed(self._history):
            if sighting.wall <= wall:
                return sighting.step
        return None

    def _counts(self, progress: Progress) -> bool:
        if self._kind is None or progress.kind > self._kind:
            return True
        if progress.kind < self._kind:
            return False
        # Bars of one kind are told apart by their length: the shorter is an evaluation within the longer.
        weak = progress.kind < Kind.ITERATION
        return not (
            weak and progress.total is not None and self.total is not None and progress.total < self.total
        )

    def _take(self, progress: Progress, sighting: _Sighting) -> None:
        if self._kind != progress.kind:
            self._kind = progress.kind
            self.first_step = None
            self._history.clear()
            self._recent.clear()
        if self.step is not None and sighting.step < self.step:
            self._recent.clear()  # started over: a rate across that moment would be negative
        self.step, self.total = sighting.step, progress.total if progress.total is not None else self.total
        if self.first_step is None:
            self.first_step = sighting.step
        self._recent.append(sighting)
        while len(self._recent) > 2 and sighting.tick - self._recent[0].tick > _RATE_OVER:
            self._recent.popleft()
        self._remember(sighting)

    def _remember(self, sighting: _Sighting) -> None:
        self._history.append(sighting)
        if len(self._history) > _HISTORY:
            old = len(self._history) // 2
            self._history = self._history[:old:2] + self._history[old:]
