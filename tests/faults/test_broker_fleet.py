"""A thousand agents lose their broker at the same moment, and all want it back.

The thousand are real back-offs in a simulated time, against a broker that lets in so many a second (100 to
300 were measured); two hundred are real links to a real broker. How long anything takes here proves nothing,
so nothing is asserted about that: what counts is how the tries are spread.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import pytest

from runctl_shared.bus.amqp import AmqpBus
from runctl_shared.bus.amqp.backoff import Backoff
from runctl_shared.bus.amqp.target import HANDSHAKE_TIMEOUT
from runctl_shared.bus.port import BusUnavailable
from runctl_testing.amqp_lab import Lab
from runctl_testing.buses import EVENTS, PATIENCE, Inbox, event
from runctl_testing.eventually import eventually

FLEET, LINKS = 1000, 200
ADMITTED = 100
"""Links a second that the simulated broker lets in."""
SURE = 1e-9
"""How likely a fair draw may fail a test."""


class Storm:
    """What a fleet with these back-offs does to a broker that is away for `away` seconds."""

    def __init__(self, backoffs: Sequence[Backoff], away: float) -> None:
        self.tries: Counter[int] = Counter()
        """How many, in each second after the broker is back."""
        self.over = 0.0
        """When the last agent is in, in seconds after the broker is back."""
        due = [(backoff.next(), number) for number, backoff in enumerate(backoffs)]
        heapq.heapify(due)
        free = away  # when the broker can see to the next one
        while due:
            at, number = heapq.heappop(due)
            if at < away:  # refused, at once
                heapq.heappush(due, (at + backoffs[number].next(), number))
                continue
            self.tries[int(at - away)] += 1
            # It sees to everybody in turn, even to those who have given up meanwhile.
            free = max(free, at) + 1 / ADMITTED
            if free - at > HANDSHAKE_TIMEOUT:
                heapq.heappush(due, (at + HANDSHAKE_TIMEOUT + backoffs[number].next(), number))
            else:
                self.over = max(self.over, free - away)


def test_a_fleet_does_not_come_back_in_step(dice: random.Random) -> None:
    """A broker that comes back, meets everybody in the same second, and is knocked over again."""
    away = dice.uniform(10.0, 600.0)
    storm = Storm([Backoff(draw=dice.uniform) for _ in range(FLEET)], away)
    # The waits have grown to some ten seconds or more by then: no second meets more than a share of them.
    assert max(storm.tries.values()) < FLEET / 4
    assert sum(storm.tries.values()) < 2 * FLEET
    assert storm.over < 90.0

    def in_step(_low: float, high: float) -> float:
        return high

    # What is asserted above is not true of every fleet.
    assert max(Storm([Backoff(draw=in_step) for _ in range(FLEET)], away).tries.values()) == FLEET


def test_a_fleet_that_is_cut_off_for_a_moment_is_back_soon(dice: random.Random) -> None:
    """Agents so afraid of a storm that a hiccup of the network costs minutes; or so little that they starve
    each other of answers."""
    storm = Storm([Backoff(draw=dice.uniform) for _ in range(FLEET)], 0.0)
    assert storm.over < 2 * FLEET / ADMITTED
    assert sum(storm.tries.values()) == FLEET


@pytest.mark.amqp
@pytest.mark.timeout(300)
def test_real_links_draw_their_waits_and_lose_nothing(
    lab: Lab, dice: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Links that try again without a wait or with the same one; that try more than once where once is enough;
    that come back without what was to be sent."""
    waits = _spied(monkeypatch)
    inbox, wire = Inbox(), lab.wire()
    lab.controller().subscribe(EVENTS, inbox)
    with ExitStack() as stack:
        buses = [stack.enter_context(closing(AmqpBus(wire.url))) for _ in range(LINKS)]
        assert all(bus.wait_connected(PATIENCE) for bus in buses)
        assert (wire.accepted, waits) == (LINKS, [])
        wire.reset()
        with ThreadPoolExecutor(LINKS) as pool:
            list(pool.map(_say, range(LINKS), buses))
        eventually(lambda: len({one.sender for one in inbox.wait(0)}) == LINKS, PATIENCE)
        assert len(waits) == LINKS
        assert 2 * LINKS <= wire.accepted < 3 * LINKS  # more than two where the machine is very busy
        assert _distance(waits, 0.0, 0.5) < _fair(LINKS)


def _say(number: int, bus: AmqpBus) -> None:
    """Send until it is confirmed, as an agent does."""

    def confirmed() -> bool:
        try:
            bus.publish(event(f"agent-{number}-1"), b"here", message_id=f"m-{number}").result(PATIENCE)
        except BusUnavailable:
            return False
        return True

    eventually(confirmed, PATIENCE, 0.2)


def _spied(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The first wait of each link from now on, in seconds."""
    waits: list[float] = []
    real: Callable[[Backoff], float] = Backoff.next

    def spied(backoff: Backoff) -> float:
        first = (
            backoff._failures == 0 and backoff._cap == 30.0
        )  # a link's; those of channels are capped lower
        wait = real(backoff)
        if first:
            waits.append(wait)
        return wait

    monkeypatch.setattr(Backoff, "next", spied)
    return waits


def _distance(drawn: Sequence[float], low: float, high: float) -> float:
    """Kolmogorov's and Smirnov's: how far `drawn` is from being spread evenly from `low` to `high`."""
    places = sorted((value - low) / (high - low) for value in drawn)
    return max(max((n + 1) / len(places) - at, at - n / len(places)) for n, at in enumerate(places))


def _fair(count: int) -> float:
    """The distance that so many fair draws stay under, but for one time in a thousand million."""
    return math.sqrt(math.log(2 / SURE) / (2 * count))
