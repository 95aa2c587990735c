"""The four promises, on what the controller has on record: checked whenever a record has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl_controller.core.model import Machine, Record
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_testing.sim.facts import require

if TYPE_CHECKING:
    from runctl_testing.sim.cloud import SimMachine
    from runctl_testing.sim.world import World

NEAR = 1e-6


def ended_means_ended(world: World, record: Record) -> None:
    """No training runs whose attempt has ended on record."""
    for trainer in world.facts.training.get(record.run.id, ()):
        attempt = record.attempt(trainer.machine.attempt)
        require(attempt is not None and attempt.open, f"attempt {trainer.machine.attempt} ended and trains")


def ended_on_evidence(world: World, record: Record) -> None:
    """An attempt that had permission ends by its own word, or because its machine is really gone."""
    for attempt in record.attempts:
        if attempt.state is AttemptState.ENDED and attempt.permitted:
            if attempt.agent in world.facts.reported:
                continue
            machine = world.machine(record, attempt.agent)
            require(machine is None or not machine.alive, f"attempt {attempt.number} ended, without evidence")


def one_permission(world: World, record: Record) -> None:
    """Only the oldest open attempt may have the permission to train."""
    allowed = [a.number for a in record.attempts if a.open and a.permitted]
    require(len(allowed) <= 1, f"attempts {allowed} may train at once")


def terminated_is_gone(world: World, record: Record) -> None:
    """Terminated means that the provider says so."""
    for machine in record.machines:
        if machine.state is MachineState.TERMINATED:
            real = world.machine(record, machine.id)
            unknown = real is None or not real.alive or _nobody_knows(world, real)
            require(unknown, f"{machine.id} is called terminated and runs")


def _nobody_knows(world: World, machine: SimMachine) -> bool:
    """A controller that had slept launched it when it was not wanted any more, and it has not reported
    yet."""
    return machine.late and not world.facts.through.get(machine.boot.agent)


def success_is_real(world: World, record: Record) -> None:
    if record.run.state is RunState.SUCCEEDED:
        done = any(run == record.run.id for run, _ in world.facts.finished)
        require(done, f"{record.run.id} is called a success and never came to its end")


def ledger_is_whole(world: World, record: Record) -> None:
    """Each machine's intervals cover its life without gap or overlap."""
    for machine in record.machines:
        if machine.launched_at is not None:
            _covers(record, machine)


def _covers(record: Record, machine: Machine) -> None:
    own = sorted((i for i in record.intervals if i.machine == machine.id), key=lambda i: i.start)
    over = machine.state is MachineState.TERMINATED
    at = machine.launched_at or 0.0
    if over and machine.ended_at is not None and machine.ended_at <= at + NEAR and not own:
        return
    require(bool(own), f"{machine.id} costs nothing, says the ledger")
    for interval in own:
        require(abs(interval.start - at) < NEAR, f"{machine.id}: the ledger has {at} then {interval.start}")
        require(interval.end is not None or interval is own[-1], f"{machine.id}: an interval stays open")
        at = interval.end if interval.end is not None else at
    if over:
        require(own[-1].end is not None, f"{machine.id} is gone and costs on, says the ledger")
        require(abs((machine.ended_at or 0.0) - at) < NEAR, f"{machine.id}: {machine.ended_at}, ledger {at}")
    else:
        require(own[-1].end is None, f"{machine.id} costs nothing any more, says the ledger")


ON_RECORD = (
    ended_means_ended,
    ended_on_evidence,
    one_permission,
    terminated_is_gone,
    success_is_real,
    ledger_is_whole,
)


def bill_matches(world: World, record: Record) -> None:
    """At the end: dollars are what the provider bills, but for seconds that nobody could know of."""
    for machine in record.machines:
        real = world.machine(record, machine.id)
        if real is not None and _nobody_knows(world, real):
            continue
        own = [i for i in record.intervals if i.machine == machine.id]
        paid = sum((i.end or 0.0) - i.start for i in own)
        billed = 0.0 if real is None or real.ended_at is None else real.ended_at - real.launched_at
        # A provider that forgets ended machines names no time of their end: then it is when that was seen, by
        # the controller's own clock.
        early, late = (300.0 + world.clock_moved, 1200.0 + world.clock_moved) if world.forgets else (1.0, 1.0)
        require(
            -early <= paid - billed <= late, f"{machine.id}: {paid:.1f} s on record, {billed:.1f} s billed"
        )


def everything_is_over(world: World, record: Record) -> None:
    for machine in world.cloud.machines.values():
        require(not machine.alive, f"{machine.order.machine} still runs")
    require(not world.disk.tables.outbox, f"left in the outbox: {list(world.disk.tables.outbox.values())}")


def right_end(world: World, record: Record) -> None:
    """The run is where its user and its training have brought it."""
    state, plan = record.run.state, world.plans[record.run.id]
    wish = world.users[record.run.id].wish
    allowed = {RunState.SUCCEEDED}
    if world.facts.own_errors(record.run.id) > plan.spec.max_restarts:
        allowed.add(RunState.FAILED)
    if plan.hangs > 1:
        allowed.add(RunState.STUCK)
    if wish == "pause" or plan.spec.max_seconds is not None:
        allowed.add(RunState.PAUSED)
    if wish == "cancel":
        allowed.add(RunState.CANCELLED)
    require(state in allowed, f"{record.run.id} ends {state.value} ({record.run.why}), wish: {wish}")


AT_THE_END = (everything_is_over, bill_matches, right_end)
