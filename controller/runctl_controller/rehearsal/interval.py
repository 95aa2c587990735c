"""Whether periodic checkpoints come often enough for the rate at which machines are lost."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from statistics import median

import msgspec

from runctl_controller.rehearsal.evidence import Evidence
from runctl_shared.messages.replies import RunDetail
from runctl_shared.units import format_duration

WORTH_SAYING = 0.005
"""The share of the time that another interval must save."""


def best_interval(save: float, mtbf: float) -> float:
    """Seconds between two checkpoints that cost `save` seconds each at which least time is lost, when
    interruptions come every `mtbf` seconds on average: sqrt(2 x save x mtbf).

    J. W. Young, "A first order approximation to the optimum checkpoint interval", CACM 17 (9), 1974. J. T.
    Daly's higher-order estimate (FGCS 22 (3), 2006) differs little where `save` is far below `mtbf`.
    """
    return math.sqrt(2.0 * save * mtbf)


def lost_share(interval: float, save: float, restart: float, mtbf: float) -> float:
    """The share of the time that goes into saving, into work done twice (half an interval for each
    interruption) and into coming back; beyond 1 nothing is ever finished."""
    return save / (interval + save) + (interval / 2 + restart) / mtbf


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds. `at_least`: no two periodic checkpoints were seen, only how long there was none."""

    interval: float
    at_least: bool
    save: float
    restart: float


def measured(detail: RunDetail, found: Iterable[Evidence]) -> Measured | None:
    """None where there was no save whose cost could be seen."""
    saves = [value for each in found if (value := _save_seconds(each)) is not None]
    if not saves:
        return None
    gaps, longest = [], 0.0
    for attempt in detail.attempts:
        times = [
            s.at
            for s in detail.story
            if s.attempt == attempt.attempt and s.kind == "checkpoint" and s.data.get("trigger") == "periodic"
        ]
        gaps += [later - earlier for earlier, later in pairwise(times)]
        if not times and attempt.started_at is not None and attempt.ended_at is not None:
            longest = max(longest, attempt.ended_at - attempt.started_at)
    if not gaps and not longest:
        return None
    back = [
        each.first.at - each.before.ended_at
        for each in found
        if each.first is not None and each.before is not None and each.before.ended_at is not None
    ]
    return Measured(
        interval=median(gaps) if gaps else longest,
        at_least=not gaps,
        save=median(saves),
        restart=max(0.0, median(back)) if back else 0.0,
    )


def tips(seen: Measured | None, mtbf: float) -> tuple[str, ...]:
    if seen is None or seen.interval <= 0 or seen.save <= 0:
        return ()
    best = best_interval(seen.save, mtbf)
    now = lost_share(seen.interval, seen.save, seen.restart, mtbf)
    then = lost_share(best, seen.save, seen.restart, mtbf)
    if seen.interval <= best or now - then < WORTH_SAYING:
        return ()
    every = f"{'at least ' if seen.at_least else ''}{format_duration(seen.interval)}"
    return (
        f"Periodic checkpoints are {every} apart. With an interruption every {format_duration(mtbf)} "
        f"(--mtbf) that is not saved for in time, each costs half of that and "
        f"{format_duration(seen.restart)} to come back: {100 * now:.1f} % of the time "
        f"with the saves. At {format_duration(seen.save)} a save, one every "
        f"{format_duration(best)} costs least: {100 * then:.1f} %.",
    )


def _save_seconds(found: Evidence) -> float | None:
    value = None if found.saved is None else found.saved.data.get("save_seconds")
    return float(value) if isinstance(value, (int, float)) else None
