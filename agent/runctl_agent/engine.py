"""One input, one transaction: decide, store the state and the events together, then hand out the effects."""

from __future__ import annotations

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


def first_state(boot: Boot, at: float) -> State:
    """The state at the machine's first boot; `at` on its monotonic clock."""
    rules = Rules(
        attempt=boot.attempt,
        signal=boot.spec.signal,
        grace=boot.spec.grace,
        lease=boot.timing.lease,
        kill_margin=boot.timing.kill_margin,
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


class Engine:
    """Drives the core. `again` tells whether the state was found on the disk: then this is a restart."""

    def __init__(self, spool: Spool, boot: Boot, at: float) -> None:
        self._spool = spool
        data = spool.load()
        self.again = data is not None
        self.state = first_state(boot, at) if data is None else msgspec.msgpack.decode(data, type=State)

    def handle(self, given: Input, wall: float) -> Sequence[Effect]:
        """Store what follows from `given`; returns what is now to be done, in order. `wall`: UTC seconds."""
        decision = decide(self.state, given)
        reports = [effect.body for effect in decision.effects if isinstance(effect, Report)]
        if reports or decision.state != self.state:
            self._spool.commit(msgspec.msgpack.encode(decision.state), reports, wall)
        self.state = decision.state
        return [effect for effect in decision.effects if not isinstance(effect, Report)]

    @property
    def due(self) -> float | None:
        """The next moment (monotonic) at which the core wants a Tick."""
        return due(self.state)
