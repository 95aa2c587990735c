"""One decision in the making: the record as it changes, the effects as they gather.

The only place where a state is assigned: every assignment is checked against its table.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from runctl_controller.core.effects import Effect, SendCommand, SetTimer, Tell
from runctl_controller.core.inputs import World
from runctl_controller.core.ledger import switch
from runctl_controller.core.model import Attempt, Interval, Machine, Record
from runctl_controller.core.tables import ATTEMPTS, MACHINES, RUNS, AttemptState, MachineState, RunState
from runctl_shared.messages.base import Body

T = TypeVar("T")


class Turn:
    """Mutable for the length of one decision; `record` and `effects` are its result.

    `at` is now; `happened` when what was reported took place, which for an agent that was cut off is earlier:
    the ledger counts by it.
    """

    def __init__(self, record: Record, world: World, at: float) -> None:
        self.record = record
        self.world = world
        self.at = self.happened = at
        self.effects: list[Effect] = []

    # -- the record ---------------------------------------------------------------------------

    def run(self, state: RunState | None = None, **changes: Any) -> None:
        """Change the run; `state` only along its table."""
        run = self.record.run
        if state is not None and state is not run.state:
            RUNS.check(run.state, state)
            changes |= {"state": state, "since": self.at}
            self.tell("run", f"{run.state.value} → {state.value}{_because(changes.get('why'))}")
        self.record = msgspec.structs.replace(self.record, run=msgspec.structs.replace(run, **changes))

    def attempt(self, number: int, state: AttemptState | None = None, **changes: Any) -> Attempt:
        """Change attempt `number`; `state` only along its table."""
        old = _known(self.record.attempt(number), number)
        if state is not None:
            ATTEMPTS.check(old.state, state)
            changes |= {"state": state, "since": old.since if state is old.state else self.at}
        new = msgspec.structs.replace(old, **changes)
        attempts = tuple(new if a is old else a for a in self.record.attempts)
        self.record = msgspec.structs.replace(self.record, attempts=attempts)
        return new

    def machine(self, name: str, state: MachineState | None = None, **changes: Any) -> Machine:
        """Change machine `name`; `state` only along its table."""
        old = _known(self.record.machine(name), name)
        if state is not None:
            MACHINES.check(old.state, state)
            changes |= {"state": state, "since": old.since if state is old.state else self.at}
        new = msgspec.structs.replace(old, **changes)
        machines = tuple(new if m is old else m for m in self.record.machines)
        self.record = msgspec.structs.replace(self.record, machines=machines)
        return new

    def add(self, attempt: Attempt, machine: Machine) -> None:
        """A new attempt and its machine."""
        self.record = msgspec.structs.replace(
            self.record,
            attempts=(*self.record.attempts, attempt),
            machines=(*self.record.machines, machine),
        )

    def use(self, machine: str, use: str | None, since: float | None = None) -> None:
        """From now (or `since`) on the machine is used for `use`; None: it costs nothing any more."""
        found = _known(self.record.machine(machine), machine)
        # Before it runs nothing is paid for, nor once it is gone (events of it may still come).
        if found.launched_at is not None and found.state is not MachineState.TERMINATED:
            at = self.happened if since is None else since
            self.intervals(switch(self.record.intervals, found, use, at))

    def intervals(self, intervals: tuple[Interval, ...]) -> None:
        self.record = msgspec.structs.replace(self.record, intervals=intervals)

    # -- effects ------------------------------------------------------------------------------

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def after(self, key: str, seconds: float) -> None:
        self.do(SetTimer(key=key, at=self.at + seconds))

    def command(self, attempt: Attempt, body: Body, expires: float | None = None) -> None:
        """Send `body` to the attempt's agent, unless that is too old to know it. The id follows from how many
        were sent before."""
        kind = type(body).__name__
        if attempt.capabilities and kind not in attempt.capabilities:
            self.tell("not_supported", f"the agent does not know the command {kind}", attempt=attempt.number)
            return
        count = attempt.commands + 1
        self.attempt(attempt.number, commands=count)
        self.do(
            SendCommand(
                agent=attempt.agent,
                attempt=attempt.number,
                id=f"cmd-{attempt.agent}-{count}",
                body=body,
                expires=expires,
            )
        )

    def tell(
        self, kind: str, text: str, *, attempt: int = 0, actor: str = "lifecycle", **data: object
    ) -> None:
        self.do(Tell(at=self.at, attempt=attempt, kind=kind, text=text, actor=actor, data=data))


def _known(found: T | None, name: object) -> T:
    if found is None:
        raise LookupError(f"{name} is not on record")
    return found


def _because(why: object) -> str:
    return f" ({why})" if why else ""
