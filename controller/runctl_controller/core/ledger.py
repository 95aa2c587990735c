"""Money: priced intervals, per second, each with what it was used for. Pure.

Uses: boot, staging, waiting (for the permission to train), training, saving, lost (training that an
interruption undid), idle (after the training ended).
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from runctl_controller.core.model import Interval, Machine


def close_interval(intervals: tuple[Interval, ...], machine: str, at: float) -> tuple[Interval, ...]:
    """End the machine's open interval at `at` (never before it began); one of no length is dropped."""
    result = []
    for interval in intervals:
        if interval.machine == machine and interval.end is None:
            if at <= interval.start:
                continue
            interval = msgspec.structs.replace(interval, end=at)
        result.append(interval)
    return tuple(result)


def open_interval(
    intervals: tuple[Interval, ...], machine: Machine, use: str, at: float
) -> tuple[Interval, ...]:
    """Begin an interval of `use` at the price of the machine's offer (dollars per hour)."""
    new = Interval(
        machine=machine.id, attempt=machine.attempt, use=use, start=at, price=machine.order.offer.price
    )
    return (*intervals, new)


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
