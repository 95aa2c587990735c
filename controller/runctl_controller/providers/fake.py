"""A provider in memory: keeps state, records calls, fails on request, and answers as late as a real one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from runctl_controller.providers.local.tags import INSTALLATION
from runctl_controller.providers.port import (
    EndCause,
    LaunchOrder,
    MachineState,
    Offer,
    Refused,
    Sighting,
    Throttled,
)
from runctl_shared.clock import Clock
from runctl_shared.errors import ProviderFailed
from runctl_shared.messages.events import NoticeKind

_OFFERS = (
    Offer(provider="fake", kind="small", place="here", price=0.5, spot=True, notice=120.0),
    Offer(provider="fake", kind="small", place="there", price=0.75, spot=True, notice=120.0),
    Offer(provider="fake", kind="small", place="here", price=2.0, spot=False, notice=0.0),
)


@dataclass
class _Machine:
    order: LaunchOrder
    provider_id: str
    launched_at: float
    runs_at: float
    hidden: int
    ends_at: float | None = None
    gone_at: float | None = None
    cause: EndCause | None = None
    taken_at: float | None = None
    told: set[NoticeKind] = field(default_factory=set)


class FakeProvider:
    """All times come from `clock`, which tests move.

    `pending_for` and `ending_for` are the seconds a machine takes to boot and to end; `hidden_for` is how
    many calls of `describe` do not see a new machine yet (nor does `list_ours` until then). They hold for
    machines launched, or ended, from then on. `calls` is what was called, as (operation, machine or
    installation); every call is recorded, also one that fails.
    """

    def __init__(self, clock: Clock, *, name: str = "fake", offers: Sequence[Offer] = _OFFERS) -> None:
        self.name = name
        self.calls: list[tuple[str, str]] = []
        self.pending_for = 0.0
        self.ending_for = 0.0
        self.hidden_for = 0
        self._clock = clock
        self._offers = sorted(offers, key=lambda offer: offer.price)
        self._lock = threading.RLock()
        self._machines: dict[str, _Machine] = {}  # by token
        self._failures: dict[str, list[ProviderFailed]] = {}
        self._answers_to_lose = 0

    # What a test says.

    def fail_once(self, operation: str, error: ProviderFailed) -> None:
        """Let the next call of `operation` (a method's name) raise `error` and do nothing. Said twice: the
        next two."""
        with self._lock:
            self._failures.setdefault(operation, []).append(error)

    def lose_answer_once(self) -> None:
        """Let the next launch happen and its answer be lost: it raises Throttled."""
        with self._lock:
            self._answers_to_lose += 1

    def take(self, machine: str, cause: EndCause = EndCause.INTERRUPTED) -> None:
        """End `machine` now, without a notice, because of `cause`."""
        with self._lock:
            for found in self._machines.values():
                if found.order.machine == machine and self._state(found) is not MachineState.TERMINATED:
                    self._end(found, self._clock.now(), cause, lasting=0.0)
                    return
        raise KeyError(machine)

    def notice(self, machine: str) -> float | None:
        """When `machine` will be taken, as its metadata service would tell it; None without a notice."""
        with self._lock:
            times = [m.taken_at for m in self._machines.values() if m.order.machine == machine]
            return times[-1] if times else None

    def told(self, machine: str) -> set[NoticeKind]:
        """Of which kinds `machine` has a notice now."""
        with self._lock:
            return {kind for m in self._machines.values() if m.order.machine == machine for kind in m.told}

    def burning(self) -> list[str]:
        """The machines that cost money now, visible to `describe` or not."""
        with self._lock:
            over = MachineState.TERMINATED
            return [m.order.machine for m in self._machines.values() if self._state(m) is not over]

    # The port.

    def offers(self) -> Sequence[Offer]:
        with self._lock:
            self._called("offers", "")
            return tuple(self._offers)

    def launch(self, order: LaunchOrder) -> Sighting:
        with self._lock:
            self._called("launch", order.machine)
            machine = self._machines.get(order.token)
            if machine is None:
                now = self._clock.now()
                machine = _Machine(
                    order=order,
                    provider_id=f"fake-{len(self._machines) + 1}",
                    launched_at=now,
                    runs_at=now + self.pending_for,
                    hidden=self.hidden_for,
                )
                self._machines[order.token] = machine
            if self._answers_to_lose:
                self._answers_to_lose -= 1
                raise Throttled("The provider did not answer in time.", "Ask again.")
            return self._sighting(machine)

    def describe(self, orders: Sequence[LaunchOrder]) -> Sequence[Sighting]:
        with self._lock:
            for order in orders:
                self._called("describe", order.machine)
            return [self._look(order) for order in orders]

    def terminate(self, order: LaunchOrder) -> None:
        with self._lock:
            self._called("terminate", order.machine)
            machine = self._machines.get(order.token)
            if machine is not None and self._state(machine) in (MachineState.PENDING, MachineState.RUNNING):
                self._end(machine, self._clock.now(), EndCause.ASKED, self.ending_for)

    def list_ours(self, installation: str) -> Sequence[Sighting]:
        with self._lock:
            self._called("list_ours", installation)
            return [
                self._sighting(machine)
                for machine in self._machines.values()
                if machine.order.tags.get(INSTALLATION) == installation
                and not machine.hidden
                and self._state(machine) is not MachineState.TERMINATED
            ]

    def interrupt(self, order: LaunchOrder, notice: float, kind: NoticeKind = "interruption") -> None:
        with self._lock:
            self._called("interrupt", order.machine)
            machine = self._known(order)
            if kind == "interruption":
                at = self._clock.now() + max(0.0, notice)
                machine.taken_at = at if machine.taken_at is None else min(at, machine.taken_at)
            machine.told.add(kind)

    def withdraw(self, order: LaunchOrder, kind: NoticeKind = "interruption") -> None:
        with self._lock:
            self._called("withdraw", order.machine)
            machine = self._known(order)
            if kind == "interruption" and self._state(machine) is not MachineState.TERMINATED:
                machine.taken_at = None
            machine.told.discard(kind)

    # Inside; the lock is held.

    def _known(self, order: LaunchOrder) -> _Machine:
        machine = self._machines.get(order.token)
        if machine is None:
            raise Refused(f"There is no machine {order.machine}.", "Look at the list of machines.")
        return machine

    def _called(self, operation: str, what: str) -> None:
        self.calls.append((operation, what))
        if failures := self._failures.get(operation):
            raise failures.pop(0)

    def _look(self, order: LaunchOrder) -> Sighting:
        machine = self._machines.get(order.token)
        if machine is None or machine.hidden:
            if machine is not None:
                machine.hidden -= 1
            return Sighting(
                token=order.token, machine=order.machine, provider_id="", state=MachineState.ABSENT
            )
        return self._sighting(machine)

    def _end(self, machine: _Machine, at: float, cause: EndCause, lasting: float) -> None:
        machine.ends_at, machine.gone_at, machine.cause = at, at + lasting, cause

    def _state(self, machine: _Machine) -> MachineState:
        now = self._clock.now()
        taken = machine.taken_at
        if taken is not None and now >= taken and (machine.ends_at is None or taken < machine.ends_at):
            self._end(machine, taken, EndCause.INTERRUPTED, lasting=0.0)
        if machine.gone_at is not None:
            return MachineState.TERMINATED if now >= machine.gone_at else MachineState.ENDING
        return MachineState.RUNNING if now >= machine.runs_at else MachineState.PENDING

    def _sighting(self, machine: _Machine) -> Sighting:
        state = self._state(machine)
        over = state is MachineState.TERMINATED
        return Sighting(
            token=machine.order.token,
            machine=machine.order.machine,
            provider_id=machine.provider_id,
            state=state,
            cause=machine.cause if over else None,
            launched_at=machine.launched_at,
            ended_at=machine.gone_at if over else None,
        )
