"""What a line of output says about progress."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What a step counts, weakest first: bars and batches may begin again with each epoch."""

    BAR = 1
    BATCH = 2
    ITERATION = 3
    STEP = 4


@dataclass(frozen=True)
class Progress:
    """What one line says; None where it says nothing.

    `kind` and `total` (of how many) belong to `step`. `loss` may be NaN or infinite: that is news as well.
    """

    step: int | None = None
    epoch: float | None = None
    loss: float | None = None
    kind: Kind = Kind.STEP
    total: int | None = None

    def says_something(self) -> bool:
        return self.step is not None or self.epoch is not None or self.loss is not None
