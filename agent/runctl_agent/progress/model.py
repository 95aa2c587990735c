"""What a line of output says about progress."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Kind(IntEnum):
    """What a step counts, weakest first. Bars and batches may begin again with each epoch; COUNTED is
    worked out of epoch and batch as if the first epoch were number 1, and so at most an epoch too low."""

    BAR = 1
    BATCH = 2
    COUNTED = 3
    ITERATION = 4
    STEP = 5


@dataclass(frozen=True)
class Progress:
    """What one line says; None where it says nothing.

    `kind` and `total` (of how many) belong to `step`, `epochs` (of how many) to `epoch`. `within`: `step` and
    `total` are of the epoch that is going on, whose bar or line this is. `first_epoch`: the number of the
    first epoch, where the program that prints so always begins with it. `loss` may be NaN or infinite: that
    is news as well.
    """

    step: int | None = None
    epoch: float | None = None
    loss: float | None = None
    kind: Kind = Kind.STEP
    total: int | None = None
    epochs: int | None = None
    within: bool = False
    first_epoch: int | None = None

    def says_something(self) -> bool:
        return self.step is not None or self.epoch is not None or self.loss is not None
