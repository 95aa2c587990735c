"""What the controller's loop does for each message, and what it leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from runctl_controller.store.port import Transaction
from runctl_shared.messages.codec import encode
from runctl_shared.messages.events import Heartbeat
from runctl_testing.buses import PATIENCE
from runctl_testing.eventually import eventually
from runctl_testing.office import RUN, Office

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
