"""How long the link waits between tries."""

from __future__ import annotations

import pytest

from runctl_shared.bus.amqp.backoff import Backoff


def upper(_low: float, high: float) -> float:
    return high


def lower(low: float, _high: float) -> float:
    return low


def test_the_bound_doubles_up_to_the_cap() -> None:
    """A bound that grows without end, or not at all: an outage of hours must not end in a wait of hours."""
    backoff = Backoff(base=0.5, cap=30.0, draw=upper)
    assert [backoff.next() for _ in range(9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_the_whole_range_down_to_nothing_is_used() -> None:
    """Jitter on top of a fixed wait: then a fleet comes back in waves."""
    backoff = Backoff(draw=lower)
    assert [backoff.next() for _ in range(5)] == [0.0] * 5


def test_success_starts_over() -> None:
    """After one bad night every short loss costs half a minute."""
    backoff = Backoff(base=1.0, draw=upper)
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() == 1.0


@pytest.mark.parametrize(("draw", "expected"), [(lower, 15.0), (upper, 30.0)])
def test_a_refusal_is_never_retried_fast(draw: object, expected: float) -> None:
    """A wrong password tried twice a second: brokers and their owners take that for an attack."""
    assert callable(draw)
    assert Backoff(cap=30.0, draw=draw).slow() == expected


def test_a_year_of_failures_is_survived() -> None:
    """2 to the power of the number of failures outgrows a float."""
    backoff = Backoff(draw=upper)
    assert {backoff.next() for _ in range(5000)} >= {30.0}


def test_two_links_do_not_wait_alike() -> None:
    """A shared or fixed seed: every agent of the fleet comes back in the same instant."""
    first, second = Backoff(), Backoff()
    assert [first.next() for _ in range(8)] != [second.next() for _ in range(8)]
