"""What the controller's loop does for each message, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path

import pytest

from runctl_controller.core.inputs import World
from runctl_controller.core.tables import AttemptState, RunState
from runctl_controller.service.engine import Engine, Outcome
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.loop import Loop
from runctl_controller.store.memory import MemoryStore
from runctl_controller.store.port import Transaction
from runctl_shared.clock import FakeClock
from runctl_shared.messages.codec import encode
from runctl_shared.messages.events import Heartbeat
from runctl_testing.buses import PATIENCE
from runctl_testing.eventually import eventually
from runctl_testing.office import RUN, Office
from runctl_testing.records import new_run, with_attempt

AGENT = "agent-abcd1234-1"
BEATS = 2000


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    office = Office(tmp_path)
    yield office
    office.close()


class Beaten:
    """A heartbeat as a bus delivers it; a thousand a second come over a broker, but not over a file."""

    topic, message_id, redelivered, sender = "", "hb", False, AGENT

    def __init__(self, step: int) -> None:
        beat = Heartbeat(phase="training", step=step)
        self.body = encode(beat, id=f"hb-{step}", run=RUN, attempt=1, agent=AGENT)

    def settled(self, *_: object) -> None:
        """Nothing is left to do."""

    ack = dead_letter = requeue = reply = settled


def test_a_heartbeat_costs_no_transaction(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that asks its database for timers and calls at each of a thousand heartbeats a second."""
    office.training()
    opened: list[None] = []
    transaction = office.store.transaction

    def counted() -> AbstractContextManager[Transaction]:
        opened.append(None)
        return transaction()

    monkeypatch.setattr(office.store, "transaction", counted)
    for step in range(BEATS):
        office.loop.on_heartbeat(Beaten(step))
    eventually(lambda: _step(office) == BEATS - 1, PATIENCE)
    # A few for each second that it takes: heartbeats are written in batches.
    assert len(opened) < BEATS / 4


def _step(office: Office) -> int | None:
    newest = office.loop.hearing.newest(AGENT)
    return newest.body.step if newest is not None else None


class _Counting(Engine):
    """Counts how often everything is looked at."""

    woken = 0

    def wake(self, now: float) -> Iterator[tuple[str, Outcome]]:
        self.woken += 1
        return super().wake(now)


def _with_thirty_runs(office: Office, clock: FakeClock, renew: Callable[[], None]) -> tuple[Loop, _Counting]:
    """A loop that has thirty runs to wake, each of which takes it a second."""
    store = MemoryStore()
    with store.transaction() as tx:
        for number in range(30):
            run = new_run(f"run-{number:04d}", state=RunState.TRAINING)
            tx.save(with_attempt(run, ("training", 1.0, None), state=AttemptState.TRAINING))
    engine = _Counting(store, World(installation="inst-test", bus="", offers=()))
    loop = Loop(
        engine,
        store,
        office.bus,
        clock,
        Hearing(10.0),
        lambda *_: None,
        changed=lambda _: clock.advance(1.0),
        renew=renew,
        renew_every=3.0,
    )
    return loop, engine


def test_a_leader_with_much_to_do_at_once_shows_that_it_is_well(office: Office) -> None:
    """One that wakes a thousand runs and is taken for dead meanwhile, by one that then does the same."""
    clock = FakeClock()
    renewed = [clock.monotonic()]
    loop, _ = _with_thirty_runs(office, clock, lambda: renewed.append(clock.monotonic()))
    loop.stop()
    loop.run()
    assert len(renewed) >= 10
    assert all(later - sooner <= 4.0 for sooner, later in pairwise(renewed))


def test_much_work_at_once_is_no_sleep(office: Office) -> None:
    """A controller of ten thousand runs that takes the time it needs for waking them for a sleep, and wakes
    them again, and again."""
    clock = FakeClock()
    loop, engine = _with_thirty_runs(office, clock, lambda: None)
    loop.wake()
    loop._housekeeping()
    assert engine.woken == 1
    clock.advance(11.0)  # now it was stopped
    loop._housekeeping()
    assert engine.woken == 2
