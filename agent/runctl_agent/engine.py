"""One input, one transaction: decide, store the state and the events together, then hand out the effects."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from runctl_agent.core.decide import decide
from runctl_agent.core.effects import Effect, Report
from runctl_agent.core.inputs import Input
from runctl_agent.core.model import Rules, State
from runctl_agent.core.timers import due
from runctl_agent.spool.port import Spool
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import encode
from runctl_shared.spec import Boot

log = logging.getLogger("runctl.agent")


def first_state(boot: Boot, at: float) -> State:
    """The state at the machine's first boot; `at` on its monotonic clock."""
    rules = Rules(
        attempt=boot.attempt,
        signal=boot.spec.signal,
        grace=boot.spec.grace,
        lease=boot.timing.lease,
        kill_margin=boot.timing.kill_margin,
        stall_after=boot.spec.stall_after,
        stall_notice=boot.timing.stall_notice,
    )
    return State(rules=rules, lease_until=at + boot.timing.lease, hard_end_at=at + boot.hard_end)


def event_bytes(boot: Boot, body: Body, sequence: int, at: float) -> bytes:
    """The message that carries a numbered event of this agent."""
    return encode(
        body,
        id=f"{boot.agent}-{sequence}",
        run=boot.spec.run,
        attempt=boot.attempt,
        agent=boot.agent,
        sequence=sequence,
        sent=at,
    )


class _Unstored(msgspec.Struct):
    """A decision that the disk does not have: its state and what it reported, at the wall time `at`."""

    state: bytes
    reports: Sequence[Body]
    at: float


class Engine:
    """Drives the core. `again` tells whether the state was found on the disk: then this is a restart.

    While the disk fails, decisions are kept in memory and stored, in their order, once it can be written: a
    full disk must not keep anybody from asking the training to save.
    """

    def __init__(self, spool: Spool, boot: Boot, at: float) -> None:
        self._spool = spool
        data = spool.load()
        self.again = data is not None
        self.state = first_state(boot, at) if data is None else msgspec.msgpack.decode(data, type=State)
        self._unstored: list[_Unstored] = []

    @property
    def stored(self) -> bool:
        """Whether the disk has the present state, and every event."""
        return not self._unstored

    def handle(self, given: Input, wall: float) -> Sequence[Effect]:
        """Decide, and store what follows from `given`; returns what is now to be done, in order, whether or
        not it could be stored. `wall`: UTC seconds."""
        decision = decide(self.state, given)
        reports = [effect.body for effect in decision.effects if isinstance(effect, Report)]
        if reports or decision.state != self.state:
            data = msgspec.msgpack.encode(decision.state)
            if reports or not self._unstored:
                self._unstored.append(_Unstored(data, reports, wall))
            else:
                self._unstored[-1].state = data
        self.state = decision.state
        self.store()
        return [effect for effect in decision.effects if not isinstance(effect, Report)]

    def store(self) -> None:
        """Store what could not be stored before, as far as that succeeds."""
        while self._unstored:
            oldest = self._unstored[0]
            try:
                self._spool.commit(oldest.state, oldest.reports, oldest.at)
            except OSError as error:
                log.error("spool.failed waiting=%d: %s", len(self._unstored), error)
                return
            except Exception:
                if not oldest.reports:
                    # What is to be done now must be done all the same.
                    log.exception("spool.failed waiting=%d", len(self._unstored))
                    return
                # One event of which no message can be made must not keep back all that follow.
                log.exception("event.lost kinds=%s", ",".join(type(body).__name__ for body in oldest.reports))
                oldest.reports = ()
            else:
                del self._unstored[0]

    @property
    def due(self) -> float | None:
        """The next moment (monotonic) at which the core wants a Tick."""
        return due(self.state)
