"""What became of a test's messages, as RabbitMQ's own Jepsen suite asks it: lost, duplicated, unexpected.

A sender notes what it `attempted`, and what of that was `confirmed`; a receiver what it `processed`, each
time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T", bound=Hashable)


class Verdict(NamedTuple, Generic[T]):
    lost: frozenset[T]
    """Confirmed, and never processed. There must be none, ever."""
    unexpected: frozenset[T]
    """Processed, and never sent. There must be none, ever."""
    duplicated: frozenset[T]
    """Processed more than once: no fault of messages, which come at least once; a fault of effects."""
    recovered: frozenset[T]
    """Processed although never confirmed: allowed, for who was not told may not conclude anything."""


def verdict(attempted: Collection[T], confirmed: Collection[T], processed: Iterable[T]) -> Verdict[T]:
    times = Counter(processed)
    return Verdict(
        lost=frozenset(confirmed) - frozenset(times),
        unexpected=frozenset(times) - frozenset(attempted),
        duplicated=frozenset(one for one, count in times.items() if count > 1),
        recovered=(frozenset(times) & frozenset(attempted)) - frozenset(confirmed),
    )
