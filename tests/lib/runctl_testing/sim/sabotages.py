"""Ways to break the product, one at a time. The simulation must notice each: so we know that it sees.

Each is a function that breaks the real code while a MonkeyPatch is open, and the bias of the worlds in which
it shows soonest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from runctl_agent.core import commands as agent_commands
from runctl_agent.core import ending, faults, movement, stall, timers
from runctl_agent.core.effects import Kill, Restore
from runctl_agent.core.inputs import CommandArrived
from runctl_agent.core.phases import Phase
from runctl_agent.core.turn import Turn as AgentTurn
from runctl_agent.engine import Engine as AgentEngine
from runctl_controller.core import agents, decide, inputs, ledger, lifecycle, machines
from runctl_controller.core.effects import Launch
from runctl_controller.core.model import Attempt, Machine, Record, Wanted
from runctl_controller.core.tables import AttemptState, MachineState
from runctl_controller.core.turn import Turn
from runctl_controller.service.engine import Engine
from runctl_controller.store.memory import MemoryStore, MemoryTransaction
from runctl_shared.checkpoints import lineage
from runctl_shared.checkpoints.manifest import parse_name
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.messages.base import Body
from runctl_shared.messages.commands import AcknowledgeEvents, StartTraining
from runctl_shared.messages.events import AttemptEnded
from runctl_testing.sim.scenario import ALWAYS, Bias


class Sabotage(msgspec.Struct, frozen=True):
    name: str
    do: Callable[[pytest.MonkeyPatch], None]
    bias: Bias


SABOTAGES: list[Sabotage] = []


def sabotage(bias: Bias | None = None) -> Callable[[Callable[[pytest.MonkeyPatch], None]], None]:
    def register(do: Callable[[pytest.MonkeyPatch], None]) -> None:
        SABOTAGES.append(Sabotage(do.__name__, do, bias or Bias()))

    return register


def replace_everywhere(patch: pytest.MonkeyPatch, old: object, new: object) -> None:
    """Wherever a module of the product names `old`, by itself or in one of its tables, let it name `new`."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("runctl_") or name.startswith("runctl_testing"):
            continue
        for key, value in list(vars(module).items()):
            if value is old:
                patch.setattr(module, key, new)
            elif isinstance(value, dict):
                for item, entry in list(value.items()):
                    if entry is old:
                        patch.setitem(value, item, new)


# -- the fences ----------------------------------------------------------------------------------


@sabotage(Bias(faults=("kill", "zombie_claims", "zombie_claims")))
def an_older_attempt_may_claim(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RunRepository, "_refuse_older", lambda self, attempt: None)


@sabotage(Bias(faults=("takeover",)))
def a_superseded_controller_writes_on(patch: pytest.MonkeyPatch) -> None:
    def transaction(self: MemoryStore) -> Iterator[MemoryTransaction]:
        tables = self.disk.tables.copy()
        yield MemoryTransaction(tables)
        self.disk.tables = tables

    patch.setattr(MemoryStore, "transaction", contextmanager(transaction))


@sabotage(Bias(faults=("takeover", "takeover"), rates={"no_capacity": 0.4}))
def a_machine_that_a_stale_controller_launched_is_left_alone(patch: pytest.MonkeyPatch) -> None:
    replace_everywhere(patch, lifecycle.end_late_machine, lambda turn, attempt: None)


@sabotage()
def the_claim_is_skipped(patch: pytest.MonkeyPatch) -> None:
    def claim(turn: AgentTurn) -> None:
        turn.change(Phase.CLAIMING)
        turn.change(Phase.RESTORING)
        turn.do(Restore())

    replace_everywhere(patch, agent_commands.claim, claim)


# -- permission ----------------------------------------------------------------------------------


@sabotage(Bias(faults=("notice",)))
def permission_comes_before_the_end_of_the_attempt_before(patch: pytest.MonkeyPatch) -> None:
    def permit(turn: Turn) -> None:
        for attempt in turn.record.attempts:
            if attempt.state is AttemptState.READY and turn.record.run.wanted is Wanted.TRAIN:
                attempt = turn.attempt(attempt.number, AttemptState.STARTING, permitted=True)
                turn.command(attempt, StartTraining())

    replace_everywhere(patch, lifecycle.permit, permit)


@sabotage(Bias(faults=("notice",)))
def a_notice_is_taken_for_the_end(patch: pytest.MonkeyPatch) -> None:
    def noticed(turn: Turn, attempt: Attempt, body: Any) -> None:
        lifecycle.end_attempt(turn, attempt, AttemptEnded(reason="interrupted"))

    replace_everywhere(patch, agents.noticed, noticed)


@sabotage(Bias(faults=("partition",)))
def silence_is_taken_for_death(patch: pytest.MonkeyPatch) -> None:
    def went_silent(turn: Turn, attempt: Attempt, given: inputs.WentSilent) -> None:
        if attempt.open:
            lifecycle.end_attempt(turn, attempt, AttemptEnded(reason="lost"))

    replace_everywhere(patch, machines.went_silent, went_silent)


@sabotage(Bias(acts=("cancel",)))
def a_person_cancels_a_training_without_force(patch: pytest.MonkeyPatch) -> None:
    from runctl_controller.core import requests

    def cancel(turn: Turn, body: Any, actor: str) -> Any:
        return real(turn, msgspec.structs.replace(body, force=True), actor)

    real = requests.cancel
    replace_everywhere(patch, real, cancel)


@sabotage(Bias(faults=("notice",), rates={"double": 0.3}))
def late_events_of_an_old_attempt_move_the_run(patch: pytest.MonkeyPatch) -> None:
    def hear(turn: Turn, attempt: Attempt, body: Body) -> None:
        handler = agents._HANDLERS.get(type(body))
        if handler is not None:
            handler(turn, attempt, body)
        lifecycle.permit(turn)
        lifecycle.follow_attempt(turn)

    replace_everywhere(patch, agents.hear, hear)


# -- events and commands -------------------------------------------------------------------------


@sabotage()
def events_are_acknowledged_before_the_commit(patch: pytest.MonkeyPatch) -> None:
    real = Engine._decide

    def _decide(self: Engine, tx: MemoryTransaction, record: Record, given: inputs.Input) -> Any:
        if not isinstance(given, inputs.Heard):
            return real(self, tx, record, given)
        return real(self, MemoryTransaction(MemoryStore().disk.tables), record, given)

    patch.setattr(Engine, "_decide", _decide)


@sabotage(Bias(rates={"lose": 0.1}))
def a_gap_is_acknowledged(patch: pytest.MonkeyPatch) -> None:
    def _heard(turn: Turn, given: inputs.Heard) -> Any:
        answer = real(turn, given)
        return None if answer is None else AcknowledgeEvents(through=given.sequence)

    real = decide._heard
    replace_everywhere(patch, real, _heard)


@sabotage(Bias(rates={"lose": 0.1}))
def a_gap_is_ignored(patch: pytest.MonkeyPatch) -> None:
    def _heard(turn: Turn, given: inputs.Heard) -> Any:
        attempt = turn.record.by_agent(given.agent)
        if attempt is not None and given.sequence > attempt.events_through + 1:
            turn.attempt(attempt.number, events_through=given.sequence - 1)
        return real(turn, given)

    real = decide._heard
    replace_everywhere(patch, real, _heard)


@sabotage(Bias(rates={"double": 0.3}))
def an_event_is_taken_twice(patch: pytest.MonkeyPatch) -> None:
    def _heard(turn: Turn, given: inputs.Heard) -> Any:
        attempt = turn.record.by_agent(given.agent)
        if attempt is not None and given.sequence == attempt.events_through:
            turn.attempt(attempt.number, events_through=given.sequence - 1)
        return real(turn, given)

    real = decide._heard
    replace_everywhere(patch, real, _heard)


@sabotage(Bias(rates={"crash_agent": 0.02}))
def a_restarted_agent_has_lost_its_events(patch: pytest.MonkeyPatch) -> None:
    def __init__(self: AgentEngine, spool: Any, boot: Any, at: float) -> None:
        real(self, spool, boot, at)
        if self.again:
            spool.forget(spool.last_sequence)

    real = AgentEngine.__init__
    patch.setattr(AgentEngine, "__init__", __init__)


@sabotage(Bias(rates={"double_command": 0.3}))
def a_command_is_carried_out_twice(patch: pytest.MonkeyPatch) -> None:
    def arrived(turn: AgentTurn, given: CommandArrived) -> None:
        turn.change(done=tuple(d for d in turn.state.done if d != given.id))
        real(turn, given)

    real = agent_commands.arrived
    replace_everywhere(patch, real, arrived)


@sabotage(Bias(rates={"crash_controller": 0.05}))
def the_outbox_is_empty_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    def take_over(self: MemoryStore, **how: Any) -> Any:
        self.disk.tables.outbox.clear()
        return real(self, **how)

    real = MemoryStore.take_over
    patch.setattr(MemoryStore, "take_over", take_over)


# -- machines and money --------------------------------------------------------------------------


@sabotage()
def a_launch_has_no_stored_intent(patch: pytest.MonkeyPatch) -> None:
    real = Engine._decide

    def _decide(self: Engine, tx: MemoryTransaction, record: Record, given: inputs.Input) -> Any:
        outcome = real(self, tx, record, given)
        if any(isinstance(effect, Launch) for effect in outcome.decision.effects):
            tx.save(record)
        return outcome

    patch.setattr(Engine, "_decide", _decide)


@sabotage(Bias(rates={"lost_answer": 0.5}))
def a_retry_has_another_token(patch: pytest.MonkeyPatch) -> None:
    def relaunch(turn: Turn, machine: Machine) -> None:
        if machine.state is MachineState.LAUNCHING:
            order = msgspec.structs.replace(machine.order, token=f"{machine.order.token}.{machine.asks}")
            turn.machine(machine.id, order=order)
        real(turn, machine)

    real = machines.relaunch
    replace_everywhere(patch, real, relaunch)


@sabotage()
def terminate_is_believed_on_asking(patch: pytest.MonkeyPatch) -> None:
    def terminate_answered(turn: Turn, machine: Machine, given: inputs.TerminateAnswered) -> None:
        if given.error is None and machine.state is not MachineState.TERMINATED:
            machines._gone(turn, machine, None)

    replace_everywhere(patch, machines.terminate_answered, terminate_answered)


@sabotage(Bias(rates={"hidden": 0.7}))
def a_machine_not_listed_yet_is_taken_for_gone(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines, "ABSENCE_COUNTS_AFTER", -1.0)
    patch.setattr(machines, "ABSENT_LOOKS", 0)


@sabotage(Bias(every=1000.0))
def the_lease_is_not_renewed(patch: pytest.MonkeyPatch) -> None:
    replace_everywhere(patch, lifecycle.renew_lease, lambda turn, attempt: None)


@sabotage(Bias(faults=("partition", "partition"), every=1000.0))
def the_lease_never_runs_out(patch: pytest.MonkeyPatch) -> None:
    def due(state: Any) -> float | None:
        return real(msgspec.structs.replace(state, lease_until=state.hard_end_at))

    def _tick(turn: AgentTurn, given: Any) -> None:
        turn.change(lease_until=turn.state.hard_end_at)
        tick(turn, given)

    from runctl_agent.core import decide as agent_decide

    real, tick = timers.due, agent_decide._tick
    replace_everywhere(patch, real, due)
    replace_everywhere(patch, tick, _tick)


@sabotage(Bias(max_seconds=100.0))
def the_hard_end_is_ignored(patch: pytest.MonkeyPatch) -> None:
    replace_everywhere(patch, timers.hard_end_notice, lambda state: float("inf"))


@sabotage()
def an_interval_is_not_closed(patch: pytest.MonkeyPatch) -> None:
    replace_everywhere(patch, ledger.fit, lambda intervals, machine, launched, ended: intervals)


@sabotage()
def two_intervals_overlap(patch: pytest.MonkeyPatch) -> None:
    def switch(intervals: Any, machine: Machine, use: str | None, at: float) -> Any:
        *others, new = real(intervals, machine, use, at)
        return (*others, msgspec.structs.replace(new, start=new.start - 5.0))

    real = ledger.switch
    replace_everywhere(patch, real, switch)


# -- the work ------------------------------------------------------------------------------------


@sabotage(Bias(faults=("notice", "kill")))
def a_restore_goes_back_further_than_it_must(patch: pytest.MonkeyPatch) -> None:
    def eligible(claims: Mapping[int, Any], names: Any) -> list[Any]:
        found = real(claims, names)
        return found[1:] or found

    real = lineage.eligible
    patch.setattr(lineage, "eligible", eligible)


@sabotage(Bias(faults=("kill", "zombie_commits", "zombie_commits", "kill", "kill")))
def what_a_cut_off_attempt_commits_is_restored(patch: pytest.MonkeyPatch) -> None:
    def eligible(claims: Mapping[int, Any], names: Any) -> list[Any]:
        parts = [parts for parts in map(parse_name, names) if parts is not None]
        return sorted((p for p in parts if p.attempt in claims), reverse=True)

    patch.setattr(lineage, "eligible", eligible)


@sabotage(Bias(faults=("notice",), answers=("save_and_exit", "save_and_go_on")))
def a_training_is_killed_without_being_asked_to_save(patch: pytest.MonkeyPatch) -> None:
    def ask(turn: AgentTurn) -> None:
        turn.change(Phase.SAVING, asked_at=turn.at, signalled_at=turn.at, killed=True)
        turn.do(Kill())

    replace_everywhere(patch, ending.ask, ask)


@sabotage(Bias(faults=("notice",), answers=("save_and_exit",)))
def an_exit_after_our_own_signal_is_a_success(patch: pytest.MonkeyPatch) -> None:
    def _verdict(turn: AgentTurn) -> Any:
        return ("succeeded", "") if turn.state.exit_code == 0 else real(turn)

    real = ending._verdict
    replace_everywhere(patch, real, _verdict)


@sabotage(Bias(faults=("notice", "kill")))
def a_start_from_nothing_is_called_a_resume(patch: pytest.MonkeyPatch) -> None:
    def first_step(turn: Turn, attempt: Attempt, body: Any) -> None:
        real(turn, attempt, msgspec.structs.replace(body, restored_step=None))

    real = agents.first_step
    replace_everywhere(patch, real, first_step)


@sabotage(Bias(faults=("notice", "kill")))
def what_was_lost_is_not_stated(patch: pytest.MonkeyPatch) -> None:
    def finish(turn: AgentTurn, reason: Any, detail: str) -> None:
        turn.change(last_step=turn.state.saved_step)
        real(turn, reason, detail)

    real = ending.finish
    replace_everywhere(patch, real, finish)


# -- what the machine says of the training -----------------------------------------------------------


@sabotage(Bias(hangs=1, hang_seconds=10.0, stall_after=15.0))
def silence_is_taken_for_a_stall(patch: pytest.MonkeyPatch) -> None:
    """Whoever has shown nothing for the limit is ended, without a look at whether it really has not."""

    def looked(turn: AgentTurn, given: Any) -> None:
        real(turn, msgspec.structs.replace(given, moved_at=None, cpu=0.0))

    real = stall.looked
    replace_everywhere(patch, real, looked)


@sabotage(Bias(hangs=1))
def a_stall_is_never_noticed(patch: pytest.MonkeyPatch) -> None:
    replace_everywhere(patch, movement.look_at, lambda state: None)
    patch.setattr(movement, "look_at", lambda state: None)


@sabotage(Bias(hangs=ALWAYS, answers=("save_and_exit",)))
def a_stall_is_retried_for_ever(patch: pytest.MonkeyPatch) -> None:
    """The checkpoint that it saves when it is ended counts as progress."""
    replace_everywhere(patch, lifecycle._stalls, lambda turn, attempt: 0)


@sabotage(Bias(faults=("gpu_lost", "gpu_lost")))
def a_broken_gpu_is_the_user_s_error(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(faults, "blamed", lambda state: None)


@sabotage(Bias(faults=("gpu_lost", "gpu_lost")))
def a_training_waits_for_a_lost_gpu_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(faults, "judge_at", lambda state: None)
