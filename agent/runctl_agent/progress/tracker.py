"""Where a training stands, as its output tells. Pure: told of each line's progress and when it was seen."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from runctl_agent.progress.model import Kind, Progress

_HISTORY = 2048  # sightings kept; thinned out, never cut off, so that old checkpoints still find their step
_RATE_OVER = 60.0  # seconds
_PATIENCE = 10.0  # seconds of silence in which the rate is believed to go on


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
        self.epoch: float | None = None
        self.loss: float | None = None
        self.first_step: int | None = None
        """The first one reported in this attempt: what proves a resume."""
        self._kind: Kind | None = None
        self._length: int | None = None
        self._began_again = False
        self._batch = 0
        self._first_epoch: int | None = None
        self._epochs: int | None = None
        self._history: list[_Sighting] = []
        self._recent: deque[_Sighting] = deque(maxlen=256)

    @property
    def kind(self) -> Kind | None:
        """How much `step` and `first_step` are worth: below ITERATION they may count within an epoch only."""
        return self._kind

    @property
    def total(self) -> int | None:
        """How many steps the whole training has, as far as it says. The length of a bar that begins again
        with each epoch does not tell it."""
        if self._length is None or self.step is None or self._length < self.step:
            return None
        of_an_epoch = self._kind is not None and self._kind < Kind.COUNTED
        return None if of_an_epoch and (self._began_again or (self._epochs or 1) > 1) else self._length

    def observe(self, progress: Progress, *, wall: float, tick: float) -> None:
        """A line seen at `wall` (UTC seconds) and `tick` (monotonic seconds) said `progress`."""
        self.epoch = progress.epoch if progress.epoch is not None else self.epoch
        self.loss = progress.loss if progress.loss is not None else self.loss
        self._learn_epochs(progress)
        counted = self._counted(progress)
        if counted.step is not None and self._counts(counted):
            self._take(counted, _Sighting(wall, tick, counted.step))

    def rate(self, now: float) -> float | None:
        """Steps a second over about the last minute of reports; None until two reports tell one. It falls
        while nothing is reported for longer than that. `now`: monotonic seconds."""
        if len(self._recent) < 2:
            return None
        first, last = self._recent[0], self._recent[-1]
        span = last.tick - first.tick
        if now - last.tick > max(span, _PATIENCE):
            span = now - first.tick
        return (last.step - first.step) / span if span > 0 else None

    def step_before(self, wall: float) -> int | None:
        """The last step seen at or before `wall` (UTC seconds); None when none was. Errs low: a line is seen
        up to a second after it was printed, and old sightings are thinned out."""
        for sighting in reversed(self._history):
            if sighting.wall <= wall:
                return sighting.step
        return None

    def _learn_epochs(self, progress: Progress) -> None:
        if progress.epoch is not None:
            self._batch = 0
        if progress.first_epoch is not None:
            self._first_epoch = progress.first_epoch
        elif progress.within and progress.epoch == 0:
            self._first_epoch = 0
        if progress.epochs is not None:
            self._epochs = progress.epochs

    def _counted(self, progress: Progress) -> Progress:
        """A step within an epoch as one of the whole training, where epoch and length are known."""
        batch, length = progress.step, progress.total
        if not progress.within or batch is None or not length or self.epoch is None:
            return progress
        if progress.epoch is None and batch < self._batch:
            self.epoch += 1  # the line that named it went by unread
        self._batch = batch
        first = 1 if self._first_epoch is None else self._first_epoch
        before = max(0, int(self.epoch) - first) * length
        kind = Kind.COUNTED if self._first_epoch is None else Kind.ITERATION
        total = None if self._epochs is None else self._epochs * length
        return replace(progress, step=before + batch, kind=kind, total=total)

    def _counts(self, progress: Progress) -> bool:
        if self._kind is None or progress.kind > self._kind:
            return True
        if progress.kind < self._kind:
            return False
        # Bars of one kind are told apart by their length: the shorter is an evaluation within the longer.
        length, longest = progress.total, self._length
        return not (
            progress.kind < Kind.COUNTED and length is not None and longest is not None and length < longest
        )

    def _take(self, progress: Progress, sighting: _Sighting) -> None:
        if self._kind != progress.kind:
            self._kind = progress.kind
            self.first_step = None
            self._history.clear()
            self._recent.clear()
            self._length = None
            self._began_again = False
        elif self.step is not None and sighting.step < self.step:
            self._recent.clear()  # started over: a rate across that moment would be negative
            self._began_again = True
        self.step = sighting.step
        self._length = progress.total if progress.total is not None else self._length
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
