"""How much of a run's time limit is used, and whether another attempt could train at all. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from runctl_shared.spec import RunSpec, Timing
from runctl_shared.units import format_duration

COUNTED = frozenset({"training", "saving", "lost"})
"""Uses of a machine that count for the limit: to boot and to wait does not."""


class Interval(Protocol):
    """A use of a machine from `start` to `end` (UTC seconds; None: it goes on)."""

    @property
    def use(self) -> str: ...
    @property
    def start(self) -> float: ...
    @property
    def end(self) -> float | None: ...


def seconds_used(intervals: Iterable[Interval], at: float) -> float:
    """What the run has used of its limit until `at`."""
    return sum((at if i.end is None else i.end) - i.start for i in intervals if i.use in COUNTED)


def used_up(spec: RunSpec, used: float, kill_margin: float = Timing().kill_margin) -> str:
    """Why another attempt could not train within the limit, as what follows the run's name; "" if it could.

    An attempt begins to save `grace` and `kill_margin` before its hard end: with no more than those left it
    would end as soon as it has begun.
    """
    if spec.max_seconds is None or spec.max_seconds - used > spec.grace + kill_margin:
        return ""
    text = f"has used {format_duration(used)} of its time limit of {format_duration(spec.max_seconds)}"
    if spec.max_seconds <= used:
        return text
    left = format_duration(spec.max_seconds - used)
    return f"{text}, and the {left} left are no more than it needs to save ({format_duration(spec.grace)})"
