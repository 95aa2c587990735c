"""When the training last showed a sign of life, and how much it worked since."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from runctl_shared.clock import Clock

_MOST_FILES = 5000
_HISTORY = 256
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a disk, a network drive or a driver",
    "T": "stopped",
    "t": "stopped by a debugger",
    "Z": "dead",
}


class Pulse:
    """`printed` is the output tail's thread's, the rest the loop's. Moments are monotonic seconds."""

    def __init__(self, clock: Clock, checkpoints: Path) -> None:
        self._clock, self._checkpoints = clock, checkpoints
        self._printed_at: float | None = None
        self._longest = 0.0
        self._work: list[tuple[float, float]] = []

    def printed(self) -> None:
        now = self._clock.monotonic()
        if self._printed_at is not None:
            self._longest = max(self._longest, now - self._printed_at)
        self._printed_at = now

    @property
    def longest_silence(self) -> float:
        """The longest between two things that were printed."""
        return self._longest

    @property
    def printed_at(self) -> float | None:
        return self._printed_at

    def moved_at(self) -> float | None:
        """When it last printed something, or wrote to its checkpoint folder."""
        found = [self._printed_at] if self._printed_at is not None else []
        newest = max(_written(self._checkpoints), default=None)
        if newest is not None:
            found.append(self._clock.monotonic() - max(0.0, self._clock.now() - newest))
        return max(found, default=None)

    def worked(self, cpu: float | None) -> None:
        """Its processes have used `cpu` seconds of processor time by now, those that ended included."""
        if cpu is not None:
            self._work.append((self._clock.monotonic(), cpu))
            if len(self._work) > _HISTORY:
                del self._work[: _HISTORY // 2 : 2]

    def cores_since(self, moment: float) -> float | None:
        """Cores that it has used on average since about `moment`; None when that is unknown."""
        since = [item for item in self._work if item[0] >= moment] or self._work[-2:]
        if len(since) < 2:
            return None
        (first, before), (last, after) = since[0], since[-1]
        # Less than before: a process ended whose time nobody took over.
        return None if last <= first or after < before else (after - before) / (last - first)


def in_words(states: Iterable[str]) -> str:
    """How processes are, by the letters of the kernel."""
    counted = Counter(_STATES.get(state, "sleeping") for state in states)
    if not counted:
        return "no process was found"
    return ", ".join(f"{number} {state}" for state, number in counted.most_common())


def _written(folder: Path) -> Iterator[float]:
    """When the files below `folder` were last written to (UTC seconds); not all of very many."""
    todo, seen = [str(folder)], 0
    while todo and seen < _MOST_FILES:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    seen += 1
                    yield entry.stat(follow_symlinks=False).st_mtime
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:
            continue  # gone while we looked, or not ours to look at
