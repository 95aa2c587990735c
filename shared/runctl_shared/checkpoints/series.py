"""How the loss went, kept in segments of the checkpoint store: `series/00002/000000.csv`.

Plain CSV, so that anybody can copy it and draw it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from runctl_shared.checkpoints.checks import require_run
from runctl_shared.checkpoints.objects import ObjectStore

SEGMENT = 512
"""Points in a full segment. Only the last one that an agent wrote is shorter."""
LONGEST_LINE = 120
"""Bytes of a point at the most."""

_SERIES = "series/"
_SEGMENT = re.compile(r"series/(\d{5})/\d{6}\.csv")
_HEADER = "step,time,epoch,loss"


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """The loss that the training reported at `time` (UTC seconds). `step` and `epoch` as far as they were
    told; `loss` may be NaN or infinite."""

    step: int | None
    time: float
    epoch: float | None = None
    loss: float


class RunSeries:
    """The losses of all attempts of `run`, in the run's part of a store. One writer per attempt."""

    def __init__(self, store: ObjectStore, run: str) -> None:
        self._store = store
        self._run = run

    def put_segment(self, attempt: int, segment: int, points: Sequence[Point]) -> None:
        """Store segment number `segment` (from 0), in place of what it was while it was shorter. Raises
        ValueError for more than SEGMENT points, StoreRefused when nothing of the run is in the store."""
        key = f"{_SERIES}{attempt:05d}/{segment:06d}.csv"
        if len(points) > SEGMENT or _SEGMENT.fullmatch(key) is None:
            raise ValueError(f"{len(points)} points cannot be {key}")
        require_run(self._store, self._run)
        self._store.put(key, "".join(f"{line}\n" for line in (_HEADER, *map(_line, points))).encode())

    def segments(self, attempt: int) -> int:
        """How many segments are stored of the attempt."""
        return len(self._keys(attempt))

    def read(self, attempt: int) -> list[Point]:
        """All points of the attempt, in the order in which they were told. What is no point is passed
        over."""
        points = []
        for key in self._keys(attempt):
            lines = self._store.get(key).decode("utf-8", "replace").splitlines()[1:]
            points += [point for point in map(_point, lines) if point is not None]
        return points

    def attempts(self) -> list[int]:
        """The attempts that have losses, in order."""
        matches = (_SEGMENT.fullmatch(info.key) for info in self._store.list(_SERIES))
        return sorted({int(match[1]) for match in matches if match is not None})

    def _keys(self, attempt: int) -> list[str]:
        found = (info.key for info in self._store.list(f"{_SERIES}{attempt:05d}/"))
        return [key for key in found if _SEGMENT.fullmatch(key) is not None]


def _line(point: Point) -> str:
    step = "" if point.step is None else str(point.step)
    epoch = "" if point.epoch is None else repr(point.epoch)
    return f"{step},{point.time:.3f},{epoch},{point.loss!r}"


def _point(line: str) -> Point | None:
    try:
        step, time, epoch, loss = line[:LONGEST_LINE].split(",")
        return Point(
            step=int(step) if step else None,
            time=float(time),
            epoch=float(epoch) if epoch else None,
            loss=float(loss),
        )
    except ValueError:
        return None
