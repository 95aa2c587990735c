"""What is really so, whatever the product believes; and the checks of each thing as it happens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from runctl_agent.core import effects, inputs
from runctl_agent.core.model import State
from runctl_controller.core.tables import MachineState
from runctl_controller.providers.port import LaunchOrder
from runctl_controller.service.engine import Outcome
from runctl_shared.checkpoints.manifest import Claim
from runctl_shared.messages import commands, events
from runctl_shared.messages.base import Body
from runctl_testing.sim.scenario import INSTALLATION

if TYPE_CHECKING:
    from runctl_testing.sim.agent import SimAgent
    from runctl_testing.sim.cloud import SimMachine
    from runctl_testing.sim.trainer import SimTrainer
    from runctl_testing.sim.wire import Event
    from runctl_testing.sim.world import World

TAG = "runctl:installation"
_ONCE = (commands.StartTraining, commands.SaveNow, commands.StopTraining)


class Broken(AssertionError):
    """A promise is broken."""


def require(good: bool, what: str) -> None:
    if not good:
        raise Broken(what)


class Facts:
    """`events`: what agents have recorded; `training`: which trainings run now; `finished`: (run, attempt) of
    trainings that really came to their last step; `inputs`: how many decisions the controller took."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: dict[tuple[str, int], Body] = {}
        self.last: dict[str, int] = {}
        self.through: dict[str, int] = {}
        self.training: dict[str, list[SimTrainer]] = {}
        self.finished: set[tuple[str, int]] = set()
        self.failures: dict[str, int] = {}
        self.leases: dict[str, float] = {}
        self.done: set[tuple[str, str]] = set()
        self.cancelled: set[str] = set()
        self.reported: set[str] = set()
        self.inputs = 0
        self.ongoing = 0
        self.last_trouble = 0.0

    # -- troubles: what excuses a lease that ran out ------------------------------------------

    def trouble(self) -> None:
        self.last_trouble = self.world.line.now

    def begin_trouble(self) -> None:
        self.ongoing += 1
        self.trouble()

    def end_trouble(self) -> None:
        self.ongoing -= 1
        self.trouble()

    def _untroubled_for(self, seconds: float) -> bool:
        return self.ongoing == 0 and self.world.line.now - self.last_trouble > seconds

    # -- promise 1: no lost work, no lost event -----------------------------------------------

    def recorded(self, agent: str, sequence: int, body: Body) -> None:
        """An agent numbers its events from 1 without gaps, and never gives a number twice."""
        require(sequence == self.last.get(agent, 0) + 1, f"{agent} numbers an event {sequence} out of order")
        self.last[agent] = sequence
        self.events[agent, sequence] = body
        if isinstance(body, events.AttemptEnded):
            self.reported.add(agent)
            self._ended_as_it_was(agent, body)
        elif isinstance(body, events.TrainingStalled):
            self._really_stalled(agent, body.seconds)

    def _ended_as_it_was(self, agent: str, body: events.AttemptEnded) -> None:
        machine = self.world.agents[agent].machine
        trainer = machine.trainer
        if body.reason == "stalled":
            require(machine.boot.spec.stall_after is not None, f"{agent} ends a training, unasked")
            require(
                trainer is not None and trainer.stood(self.world.line.now),
                f"{agent} calls it stalled, falsely",
            )
        if trainer is not None and trainer.broken and trainer.exit == (1, None):
            require(body.reason != "user_error", f"{agent} blames the user for a broken GPU")
        if body.reason == "hardware_fault":
            require(trainer is not None and trainer.broken, f"{agent} blames a GPU, falsely")
        if body.reason == "succeeded":
            require((machine.run, machine.attempt) in self.finished, f"{agent} calls it a success, falsely")
        if body.lost_steps is not None and machine.trainer is not None:
            saved = [save.step for save in machine.committed]
            base = saved[-1] if saved else machine.trainer.start_step
            lost = max(0, (machine.trainer.last or 0) - base)
            require(body.lost_steps == lost or not self.world.plans[machine.run].resumes,
                    f"{agent} says {body.lost_steps} steps are lost, it is {lost}")  # fmt: skip

    def _really_stalled(self, agent: str, seconds: float) -> None:
        machine = self.world.agents[agent].machine
        trainer, limit = machine.trainer, machine.boot.spec.stall_after or machine.boot.timing.stall_notice
        since = trainer.started_at if trainer is None or trainer.step is None else trainer.hung_at  # type: ignore[union-attr]  # no trainer: fails below
        require(trainer is not None and since is not None, f"{agent} says that a training stalls which moves")
        quiet = self.world.line.now - (since or 0.0)
        require(
            quiet >= limit - 1.0,
            f"{agent} calls {quiet:.0f} s of silence a stall, the limit is {limit:.0f} s",
        )

    def _stall_is_noticed(self, agent: SimAgent) -> None:
        """With --stall-after, no training hangs for long."""
        trainer, state = agent.machine.trainer, agent.engine.state
        limit = agent.machine.boot.spec.stall_after
        if trainer is None or not trainer.alive or trainer.hung_at is None or limit is None:
            return
        if state.cause is not None or state.started_at is None:
            return
        quiet = self.world.line.now - max(trainer.hung_at, agent.started_at)
        most = 3.0 * max(limit, 3.0 * state.longest_silence) + 2.0 * min(60.0, limit) + 5.0
        require(quiet <= most, f"{agent.id} has not noticed for {quiet:.0f} s that the training hangs")

    def heard(self, event: Event, outcome: Outcome | None) -> None:
        """The controller commits each event once, in order, as it was recorded."""
        if outcome is None:
            return
        attempt = outcome.decision.record.by_agent(event.agent)
        require(attempt is not None, f"{event.agent} is not on record")
        now, before = attempt.events_through if attempt else 0, self.through.get(event.agent, 0)
        due = event.sequence == before + 1
        what = f"event {event.sequence} of {event.agent}"
        require(now == before + (1 if due else 0), f"{what}: {before} were committed, then {now}")
        self.through[event.agent] = now
        require(due or not outcome.decision.effects, f"{what} is taken twice")
        if due and isinstance(event.body, events.FirstStepSeen):
            self._resume_is_proven(event.body, outcome)

    def _resume_is_proven(self, body: events.FirstStepSeen, outcome: Outcome) -> None:
        below = body.restored_step is not None and body.step < body.restored_step
        kinds = {told.item.kind for told in outcome.told}
        if "late" not in kinds:
            require(("not_resumed" in kinds) == below, "a first step below the restored one is not told")

    def forgotten(self, agent: SimAgent, through: int) -> None:
        """Acknowledged means committed."""
        found = self.world.attempt(agent.machine.run, agent.machine.attempt)
        committed = found.events_through if found else 0
        require(through <= committed, f"{agent.id} may forget {through}; only {committed} are committed")

    def spool_is_whole(self, agent: SimAgent) -> None:
        """What is not committed lies in the spool."""
        disk, through = agent.machine.spool, self.through.get(agent.id, 0)
        held = sum(1 for number in disk.events if number > through)
        require(held == self.last.get(agent.id, 0) - through, f"{agent.id} has lost events from its spool")

    def claimed(self, run: str, attempt: int, data: bytes) -> None:
        """Each claim starts from the newest checkpoint that counts; an older attempt never claims."""
        claim = msgspec.json.decode(data, type=Claim)
        newest = self._newest(run)
        require(claim.parent == newest, f"attempt {attempt} goes back to {claim.parent} from {newest}")
        require(attempt > self.world.vault.claims.get(run, 0), f"attempt {attempt} claims after a newer one")

    def _newest(self, run: str) -> str | None:
        found = self.world.vault.newest(run)
        return found.name if found is not None else None

    def agent_decided(
        self, agent: SimAgent, given: inputs.Input, before: State, wanted: Sequence[effects.Effect]
    ) -> None:
        state = agent.engine.state
        if isinstance(given, inputs.CommandArrived):
            self._command_once(agent, given, state is not before or bool(wanted))
        elif isinstance(given, inputs.Restored) and state is not before:
            newest = self._newest(agent.machine.run)
            require(given.manifest == newest, f"{agent.id} restores {given.manifest}, not {newest}")
        elif isinstance(given, inputs.Stored):
            self._lease(agent, given.at + agent.machine.boot.timing.lease)
        self.spool_is_whole(agent)
        self._lease_is_kept(agent)
        self._stall_is_noticed(agent)
        if state.cause == "lease" and before.cause is None:
            self._lease_ran_out(agent)
        if any(isinstance(effect, effects.Kill) for effect in wanted):
            self._killed(agent)

    def _command_once(self, agent: SimAgent, given: inputs.CommandArrived, acted: bool) -> None:
        if isinstance(given.body, commands.RenewLease):
            self._lease(agent, given.at + given.body.seconds)
        if isinstance(given.body, _ONCE) and acted:
            require((agent.id, given.id) not in self.done, f"{agent.id} does {given.id} twice")
            self.done.add((agent.id, given.id))

    def _killed(self, agent: SimAgent) -> None:
        """No training is killed that was not asked to save in time before."""
        trainer, machine = agent.machine.trainer, agent.machine
        if trainer is None or machine.run in self.cancelled:
            return
        ends = [machine.order.hard_end + machine.launched_at]
        ends += [machine.notice.taken_at] if machine.notice is not None else []
        ends += [m for m in (agent.noticed_until,) if m is not None]
        if self.world.line.now >= min(ends) - 5.0:
            return
        require(trainer.asked_at is not None, f"{agent.id} kills a training that was not asked to save")
        enough = (trainer.asked_at or 0.0) + machine.boot.spec.grace
        require(self.world.line.now >= enough - 5.0, f"{agent.id} kills a training that still had time")

    # -- promise 2: no orphan money, and never two at once ------------------------------------

    def training_began(self, trainer: SimTrainer) -> None:
        machine = trainer.machine
        others = self.training.setdefault(machine.run, [])
        name = f"attempt {machine.attempt}"
        require(not others, f"{name} and attempts {[o.machine.attempt for o in others]} train at once")
        others.append(trainer)
        attempt = self.world.attempt(machine.run, machine.attempt)
        require(attempt is not None and attempt.permitted, f"{name} trains without permission")
        holder = self.world.vault.claims.get(machine.run)
        require(holder == machine.attempt, f"{name} trains, {holder} holds the lineage")
        newest = self.world.vault.newest(machine.run)
        if machine.plan.resumes and newest is not None:
            require(trainer.start_step == newest.step, f"{name} does not go on from {newest.step}")

    def training_ended(self, trainer: SimTrainer) -> None:
        self.training[trainer.machine.run].remove(trainer)

    def own_errors(self, run: str) -> int:
        return self.failures.get(run, 0)

    def launch_called(self, order: LaunchOrder) -> None:
        """On record before the call, and marked as ours by the call."""
        require(self._on_record(order) is not None, f"{order.machine} is launched and not on record")
        require(order.tags.get(TAG) == INSTALLATION, "a machine without our tag is launched")

    def _on_record(self, order: LaunchOrder) -> MachineState | None:
        for record in self.world.disk.tables.records.values():
            machine = record.machine(order.machine)
            if machine is not None and machine.order == order:
                return machine.state
        return None

    def machine_began(self, machine: SimMachine) -> None:
        twins = [m for m in self.world.cloud.machines.values() if m.order.machine == machine.order.machine]
        require(twins == [machine], f"{machine.order.machine} was launched twice")
        state = self._on_record(machine.order)
        machine.late = state is MachineState.TERMINATED
        stale = self.world.stale_call
        require(stale or not machine.late, f"{machine.order.machine} begins after its end was recorded")
        self.leases[machine.boot.agent] = machine.monotonic + machine.boot.timing.lease + 60.0

    def terminate_called(self, order: LaunchOrder) -> None:
        require(order.tags.get(TAG) == INSTALLATION, "a machine that is not ours is ended")

    def host_ended(self, machine: SimMachine) -> None:
        """The host had to do what the agent should have done before: end, saving first."""
        agent, trainer = machine.agent, machine.trainer
        if agent is None or not agent.alive or trainer is None or not trainer.alive:
            return
        since = self.world.line.now - agent.started_at
        require(since < machine.boot.spec.grace + 60.0, f"{agent.id} ignores its hard end")

    def _lease(self, agent: SimAgent, until: float) -> None:
        self.leases[agent.id] = max(self.leases[agent.id], until)

    def _lease_is_kept(self, agent: SimAgent) -> None:
        trainer, machine = agent.machine.trainer, agent.machine
        if trainer is None or not trainer.alive:
            return
        began = agent.started_at - machine.launched_at + 50.0
        most = max(self.leases[agent.id], began) + machine.boot.spec.grace + 10.0
        require(machine.monotonic <= most, f"{agent.id} trains on after its lease")

    def _lease_ran_out(self, agent: SimAgent) -> None:
        """With a controller that could be reached all the time, no lease runs out."""
        attempt = self.world.attempt(agent.machine.run, agent.machine.attempt)
        if attempt is None or not attempt.open or attempt.stop_sent:
            return
        excused = not self._untroubled_for(agent.machine.boot.timing.lease)
        require(excused, f"the lease of {agent.id} was not renewed")
