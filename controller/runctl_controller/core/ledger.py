"""Money: priced intervals, per second, each with what it was used for. Pure.

Uses: boot, staging, waiting (for the permission to train), training, saving, lost (training that an
interruption undid), idle (after the training ended).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from runctl_controller.core.model import Interval, Machine


def switch(
    intervals: tuple[Interval, ...], machine: Machine, use: str | None, at: float
) -> tuple[Interval, ...]:
    """From `at` on the machine is used for `use`, at its offer's price (dollars per hour); None: no more.

    Without gap or overlap, also when a clock that was set back says an earlier time than before: then the new
    use begins where the one before began, or ended.
    """
    kept: list[Interval] = []
    for interval in intervals:
        if interval.machine == machine.id:
            at = max(at, interval.start if interval.end is None else interval.end)
            if interval.end is None:
                if at <= interval.start:
                    continue
                interval = msgspec.structs.replace(interval, end=at)
        kept.append(interval)
    if use is not None:
        price = machine.order.offer.price
        kept.append(Interval(machine=machine.id, attempt=machine.attempt, use=use, start=at, price=price))
    return tuple(kept)


def fit(
    intervals: tuple[Interval, ...], machine: str, launched: float, ended: float | None
) -> tuple[Interval, ...]:
    """Make the machine's intervals cover exactly its life as the provider gives it (`ended` None: it goes
    on): what was recorded of it came later, and by another clock."""
    own = sorted((i for i in intervals if i.machine == machine), key=lambda i: i.start)
    fitted: list[Interval] = []
    for number, interval in enumerate(own):
        start = launched if number == 0 else max(launched, interval.start)
        end = interval.end
        if ended is not None:
            end = ended if end is None or interval is own[-1] else min(end, ended)
        if end is None or end > start:
            fitted.append(msgspec.structs.replace(interval, start=start, end=end))
    if fitted and fitted[0].start > launched:
        fitted[0] = msgspec.structs.replace(fitted[0], start=launched)
    return (*(i for i in intervals if i.machine != machine), *fitted)


def mark_lost(intervals: tuple[Interval, ...], attempt: int, since: float) -> tuple[Interval, ...]:
    """Training of `attempt` after `since` (its newest verified checkpoint) was undone: call it lost."""
    result: list[Interval] = []
    for interval in intervals:
        end = interval.end
        if (
            interval.attempt != attempt
            or interval.use not in ("training", "saving")
            or (end is not None and end <= since)
        ):
            result.append(interval)
        elif interval.start >= since:
            result.append(msgspec.structs.replace(interval, use="lost"))
        else:
            result.append(msgspec.structs.replace(interval, end=since))
            result.append(msgspec.structs.replace(interval, start=since, use="lost"))
    return tuple(result)


def dollars(intervals: Iterable[Interval], now: float) -> float:
    """What the intervals cost until `now`."""
    return sum(max(0.0, (now if i.end is None else i.end) - i.start) / 3600.0 * i.price for i in intervals)


def by_use(intervals: Iterable[Interval], now: float) -> dict[str, tuple[float, float]]:
    """Seconds and dollars until `now`, for each use."""
    sums: dict[str, tuple[float, float]] = {}
    for interval in intervals:
        seconds, paid = sums.get(interval.use, (0.0, 0.0))
        took = max(0.0, (now if interval.end is None else interval.end) - interval.start)
        sums[interval.use] = (seconds + took, paid + took / 3600.0 * interval.price)
    return sums
