"""One decision, one transaction; and what becomes of decisions while the disk takes none."""

from __future__ import annotations

import pytest

from runctl_agent.core import effects, inputs
from runctl_agent.core.phases import Phase
from runctl_agent.engine import Engine, event_bytes
from runctl_agent.spool.memory import MemoryDisk
from runctl_shared.messages import commands
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import decode
from runctl_shared.messages.events import Registered, Staged
from runctl_shared.spec import Boot
from runctl_testing.agents import HELLO, FullDisk
from runctl_testing.checkpoints import SPEC

BOOT = Boot(agent="agent-abcd1234-1", attempt=1, spec=SPEC, bus="", hard_end=60.0)
BOOTED = inputs.Booted(at=1.0, hello=HELLO)
STAGED = inputs.Staged(at=2.0, seconds=1.0)


class Desk:
    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.unencodable: type[Body] | None = None
        self.spool = FullDisk(self._message, self.disk)
        self.engine = Engine(self.spool, BOOT, 0.0)

    def _message(self, body: Body, sequence: int, at: float) -> bytes:
        if self.unencodable is not None and isinstance(body, self.unencodable):
            raise ValueError("no")
        return event_bytes(BOOT, body, sequence, at)

    def told(self) -> list[tuple[int, str, float]]:
        messages = [decode(item.data) for item in self.spool.pending()]
        return [(m.envelope.sequence, m.envelope.kind, m.envelope.sent) for m in messages]

    def phase_on_disk(self) -> Phase:
        return Engine(self.spool, BOOT, 0.0).state.phase


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_what_follows_is_stored_before_it_is_done(desk: Desk) -> None:
    assert [type(e) for e in desk.engine.handle(BOOTED, 100.0)] == [effects.Stage]
    assert (desk.told(), desk.engine.stored) == ([(1, "Registered", 100.0)], True)


def test_what_a_full_disk_did_not_take_is_stored_in_order_and_with_its_own_times(desk: Desk) -> None:
    desk.spool.full = True
    assert [type(e) for e in desk.engine.handle(BOOTED, 100.0)] == [effects.Stage]
    desk.engine.handle(STAGED, 101.0)
    assert (desk.told(), desk.engine.stored, desk.engine.state.phase) == ([], False, Phase.READY)
    desk.spool.full = False
    desk.engine.store()
    assert desk.told() == [(1, "Registered", 100.0), (2, "Staged", 101.0)]
    assert (desk.engine.stored, desk.phase_on_disk()) == (True, Phase.READY)


def test_the_next_decision_takes_along_what_waits(desk: Desk) -> None:
    desk.spool.full = True
    desk.engine.handle(BOOTED, 100.0)
    desk.spool.full = False
    desk.engine.handle(STAGED, 101.0)
    assert [number for number, _, _ in desk.told()] == [1, 2]


def test_a_crash_in_between_leaves_a_state_that_fits_its_events(desk: Desk) -> None:
    """Never a state that knows of an event that nobody will ever send."""
    desk.spool.full = True
    desk.engine.handle(BOOTED, 100.0)
    desk.engine.handle(STAGED, 101.0)
    desk.spool.full = False
    real, commits = desk.spool.commit, list[None]()

    def once(*args: object) -> object:
        commits.append(None)
        if len(commits) > 1:
            raise OSError(28, "No space left on device")
        return real(*args)  # type: ignore[arg-type]  # as it came

    desk.spool.commit = once  # type: ignore[method-assign,assignment]  # room for one only
    desk.engine.store()
    assert desk.told() == [(1, "Registered", 100.0)]
    assert desk.phase_on_disk() is Phase.STAGING


def test_days_without_room_take_no_memory(desk: Desk) -> None:
    desk.spool.full = True
    desk.engine.handle(BOOTED, 100.0)
    for second in range(1000):
        desk.engine.handle(inputs.StepSeen(at=float(second), step=second), 100.0)
    assert len(desk.engine._unstored) <= 2  # one for each that said something
    desk.spool.full = False
    desk.engine.store()
    assert Engine(desk.spool, BOOT, 0.0).state == desk.engine.state


def test_a_mistake_of_the_spools_keeps_nothing_from_being_done(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state has moved on: what it wanted done is not asked for a second time."""
    desk.engine.handle(BOOTED, 100.0)
    desk.engine.handle(STAGED, 101.0)
    monkeypatch.setattr(desk.spool, "commit", lambda *args: 1 // 0)
    start = inputs.CommandArrived(
        at=2.0, id="cmd-1", attempt=1, kind="StartTraining", body=commands.StartTraining()
    )
    assert desk.engine.handle(start, 102.0) == [effects.Claim()]
    assert not desk.engine.stored


def test_one_event_that_makes_no_message_keeps_back_no_other(desk: Desk) -> None:
    desk.unencodable = Registered
    desk.engine.handle(BOOTED, 100.0)
    desk.engine.handle(STAGED, 101.0)
    assert desk.told() == [(1, Staged.__name__, 101.0)]
    assert desk.phase_on_disk() is Phase.READY
