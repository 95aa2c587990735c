"""The provider: machines that boot late or never, are taken, and are not always seen as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runctl_agent.core.inputs import HardwareFaultSeen
from runctl_agent.spool.memory import MemoryDisk
from runctl_controller.providers.port import (
    EndCause,
    LaunchOrder,
    MachineState,
    NoCapacity,
    Offer,
    Sighting,
    Throttled,
)
from runctl_shared.spec import Boot
from runctl_testing.sim.agent import SimAgent
from runctl_testing.sim.trainer import Saved, SimTrainer

if TYPE_CHECKING:
    from runctl_testing.sim.world import World

OFFER = Offer(provider="sim", kind="small", place="here", price=3.6, spot=True, notice=120.0)
SAVE_MARGIN = 40.0
"""Seconds after the hard end at which the host ends a machine whose agent did not."""


class Notice(msgspec.Struct, frozen=True):
    id: str
    kind: str
    taken_at: float


class SimMachine:
    """`saves`, `spool` and `trainer` lie on its disk: they outlive the agent and go with the machine.
    `faults`: of its GPUs, as the kernel's log has them."""

    def __init__(self, world: World, order: LaunchOrder) -> None:
        self.world, self.order = world, order
        self.boot = msgspec.json.decode(order.boot, type=Boot)
        self.run, self.attempt = self.boot.spec.run, self.boot.attempt
        self.plan = world.plans[self.run]
        self.launched_at = world.line.now
        self.hidden_until = self.gone_seen_at = world.line.now
        self.ended_at: float | None = None
        self.ending = False
        self.late = False  # launched after its end had been recorded, by a controller that had slept over it
        self.cause: EndCause | None = None
        self.notice: Notice | None = None
        self.spool = MemoryDisk()
        self.saves: list[Saved] = []
        self.committed: list[Saved] = []
        self.agent: SimAgent | None = None
        self.trainer: SimTrainer | None = None
        self.faults: list[HardwareFaultSeen] = []

    @property
    def alive(self) -> bool:
        return self.ended_at is None

    @property
    def monotonic(self) -> float:
        return self.world.line.now - self.launched_at + 50.0

    def begin(self, boots: bool) -> None:
        line = self.world.line
        if boots:
            line.after(self.world.rng.uniform(2.0, 25.0), self._start_agent)
        line.after(self.order.boot_limit, self._watchdog)
        line.after(self.order.hard_end + SAVE_MARGIN, self._hard_end)

    def _start_agent(self) -> None:
        if self.alive:
            self.agent = SimAgent(self)
            self.agent.start()

    def _watchdog(self) -> None:
        if self.agent is None:
            self.end(EndCause.BOOT_FAILED)

    def _hard_end(self) -> None:
        if self.alive:
            self.world.facts.host_ended(self)
            self.end(EndCause.ITSELF)

    def end(self, cause: EndCause) -> None:
        if not self.alive:
            return
        self.world.line.note(f"machine {self.attempt}", f"is gone: {cause.value}")
        self.ended_at, self.cause = self.world.line.now, cause
        self.gone_seen_at = self.world.line.now + self.world.cloud.late_word()
        if self.trainer is not None:
            self.trainer.vanish()
        if self.agent is not None:
            self.agent.stop()

    def poll(self) -> None:
        """The agent's look at the metadata service, once a second."""
        if self.agent is not None:
            self.agent.look_for_notice()

    def take(self, notice: Notice | None) -> None:
        if notice is self.notice:
            self.end(EndCause.INTERRUPTED)


class Cloud:
    """See Provider: the same calls, for one order at a time."""

    name = "sim"

    def __init__(self, world: World) -> None:
        self.world = world
        self.machines: dict[str, SimMachine] = {}  # by token
        self._notices = 0

    @property
    def living(self) -> list[SimMachine]:
        return [m for m in self.machines.values() if m.alive]

    def late_word(self) -> float:
        return self.world.rng.uniform(5.0, 60.0) if self.world.chance("late_word") else 0.0

    def launch(self, order: LaunchOrder) -> Sighting:
        world = self.world
        world.facts.launch_called(order)
        machine = self.machines.get(order.token)
        if world.chance("throttled"):
            raise Throttled("Too many requests.")
        if machine is None:
            if world.chance("no_capacity"):
                raise NoCapacity("There is none to be had.")
            machine = self.machines[order.token] = SimMachine(world, order)
            if world.chance("hidden"):
                machine.hidden_until = world.line.now + world.rng.uniform(5.0, 90.0)
            world.facts.machine_began(machine)
            machine.begin(boots=not world.chance("boot_fails"))
        if world.chance("lost_answer"):
            raise Throttled("No answer in time.")
        return self._sighting(machine)

    def describe(self, order: LaunchOrder) -> Sighting:
        if self.world.chance("throttled"):
            raise Throttled("Too many requests.")
        machine = self.machines.get(order.token)
        now = self.world.line.now
        hidden = machine is None or now < machine.hidden_until
        if machine is None or hidden or (self.world.forgets and not machine.alive):
            return Sighting(
                token=order.token, machine=order.machine, provider_id="", state=MachineState.ABSENT
            )
        return self._sighting(machine)

    def terminate(self, order: LaunchOrder) -> None:
        if self.world.chance("throttled"):
            raise Throttled("Too many requests.")
        self.world.facts.terminate_called(order)
        machine = self.machines.get(order.token)
        if machine is None or not machine.alive or machine.ending:
            return
        machine.ending = True
        slow = self.world.chance("slow_end")
        wait = self.world.rng.uniform(20.0, 120.0) if slow else self.world.rng.uniform(0.0, 5.0)
        self.world.line.after(wait, lambda: machine.end(EndCause.ASKED))

    def interrupt(self, machine: SimMachine, warning: float, withdrawn_after: float | None = None) -> None:
        """Notice an interruption; withdraw the notice again after `withdrawn_after` seconds."""
        if machine.notice is not None or not machine.alive:
            return
        line = self.world.line
        self._notices += 1
        notice = Notice(f"notice-{self._notices}", "interruption", line.now + warning)
        machine.notice = notice
        line.note(f"machine {machine.attempt}", f"is noticed, {warning:.0f} s")
        line.after(self.world.rng.uniform(0.0, 1.0), machine.poll)
        line.at(notice.taken_at, lambda: machine.take(notice))
        if withdrawn_after is not None:
            line.after(withdrawn_after, lambda: self._withdraw(machine, notice))

    def rebalance(self, machine: SimMachine) -> None:
        self._notices += 1
        if machine.agent is not None:
            machine.agent.noticed(Notice(f"notice-{self._notices}", "rebalance", 0.0))

    def _withdraw(self, machine: SimMachine, notice: Notice) -> None:
        if machine.alive and machine.notice is notice:
            machine.notice = None
            if machine.agent is not None:
                machine.agent.notice_gone(notice)

    def _sighting(self, machine: SimMachine) -> Sighting:
        state = MachineState.PENDING if machine.agent is None else MachineState.RUNNING
        over = not machine.alive and self.world.line.now >= machine.gone_seen_at
        if over:
            state = MachineState.TERMINATED
        elif machine.ending or not machine.alive:
            state = MachineState.ENDING
        return Sighting(
            token=machine.order.token,
            machine=machine.order.machine,
            provider_id=f"sim-{machine.order.machine}",
            state=state,
            cause=machine.cause if over else None,
            launched_at=machine.launched_at,
            ended_at=machine.ended_at if over else None,
        )
