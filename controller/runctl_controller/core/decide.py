"""The controller's core: decide(record, input) -> (record', effects). No I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from runctl_controller.core import inputs, keeping, machines, requests
from runctl_controller.core.agents import hear
from runctl_controller.core.effects import Deposit, Effect, Look
from runctl_controller.core.lifecycle import (
    ask_for_end_record,
    end_machine,
    plan_attempt,
    release_machine,
    renew_lease,
)
from runctl_controller.core.model import Attempt, Cause, Machine, Record
from runctl_controller.core.tables import MachineState, RunState
from runctl_controller.core.turn import Turn
from runctl_shared.messages.base import Body
from runctl_shared.messages.commands import AcknowledgeEvents, ResendEvents
from runctl_shared.messages.events import AttemptEnded

MOST_EVENTS = 200_000
"""Events of one attempt that are heard: one every 13 s for 30 days. Each is told in the story, and whoever
sends more means to fill the disk. Its end is heard all the same."""


class Decision(msgspec.Struct, frozen=True):
    """The record as it is to be stored, what is to be done after, the reply if a client asked, and what to
    tell the agent about its events (sent after the commit; if it is lost the agent asks by sending again)."""

    record: Record
    effects: tuple[Effect, ...]
    reply: Body | None = None
    answer: AcknowledgeEvents | ResendEvents | None = None


def decide(record: Record, given: inputs.Input, world: inputs.World) -> Decision:
    """What follows from `given`. Raises RunctlError when a request is refused (nothing changes then)."""
    turn = Turn(record, world, given.at)
    reply: Body | None = None
    answer: AcknowledgeEvents | ResendEvents | None = None
    if isinstance(given, inputs.Requested):
        reply = requests.act(turn, given.body, given.actor)
    elif isinstance(given, inputs.Heard):
        answer = _heard(turn, given)
    elif isinstance(given, inputs.TimerFired):
        _timer(turn, given.key)
    elif isinstance(given, inputs.Woke):
        _woke(turn)
    elif isinstance(given, inputs.EndRead | inputs.CommitsRead):
        _read(turn, given)
    elif isinstance(given, (inputs.WentSilent, inputs.HeardAgain)):
        _hearing(turn, given)
    elif isinstance(given, inputs.Imported):
        _imported(turn, given)
    else:
        _about_machine(turn, given)
    if keeping.changed(record, turn.record):
        turn.do(Deposit())
    return Decision(turn.record, tuple(turn.effects), reply, answer)


def _heard(turn: Turn, given: inputs.Heard) -> AcknowledgeEvents | ResendEvents | None:
    """Events of one agent in their order, each once: what was committed before is only acknowledged again,
    and what lies beyond a gap waits until the gap is filled."""
    attempt = turn.record.by_agent(given.agent)
    if attempt is None:
        return None
    if given.sequence > attempt.events_through + 1:
        attempt = _over_the_gap(turn, attempt, given.sequence)
    if given.sequence > attempt.events_through + 1:
        return ResendEvents(after=attempt.events_through)
    if given.sequence == attempt.events_through + 1:
        attempt = _date(turn, turn.attempt(attempt.number, events_through=given.sequence), given)
        if attempt.open and attempt.unheard_since is not None:
            machines.heard_again(turn, attempt, inputs.HeardAgain(at=given.at, agent=given.agent))
            attempt = turn.attempt(attempt.number)
        if given.sequence <= MOST_EVENTS or isinstance(given.body, AttemptEnded):
            hear(turn, attempt, given.body)
    return AcknowledgeEvents(through=max(attempt.events_through, given.sequence))


def _over_the_gap(turn: Turn, attempt: Attempt, sequence: int) -> Attempt:
    """Of an adopted attempt, events may be missing that its agent was told to forget. It sends all that it
    has when it is asked to; so the first that is no later than the one that showed the gap is the first there
    is."""
    if not attempt.adopted:
        return attempt
    if attempt.gap_at is None or sequence > attempt.gap_at:
        return turn.attempt(attempt.number, gap_at=min(sequence, attempt.gap_at or sequence))
    text = f"events {attempt.events_through + 1} to {sequence - 1} of attempt {attempt.number} are lost"
    turn.tell("gap", text, attempt=attempt.number)
    return turn.attempt(attempt.number, events_through=sequence - 1, adopted=False, gap_at=None)


def _date(turn: Turn, attempt: Attempt, given: inputs.Heard) -> Attempt:
    """When the event happened, by our clock. The agent's clock may be wrong, and the event may have waited
    for the broker: the least delay ever seen is taken for the difference between the clocks."""
    if given.sent <= 0:
        return attempt
    delay = given.at - given.sent
    lag = delay if attempt.lag is None else min(attempt.lag, delay)
    turn.happened = min(given.at, max(given.sent + lag, attempt.told_at, attempt.created_at))
    return turn.attempt(attempt.number, lag=lag, told_at=turn.happened)


def _read(turn: Turn, given: inputs.EndRead | inputs.CommitsRead) -> None:
    attempt = turn.record.attempt(given.attempt)
    if attempt is None:
        return
    if isinstance(given, inputs.EndRead):
        machines.end_read(turn, attempt, given)
    else:
        machines.commits_read(turn, attempt, given)


def _hearing(turn: Turn, given: inputs.WentSilent | inputs.HeardAgain) -> None:
    attempt = turn.record.by_agent(given.agent)
    if attempt is None:
        return
    if isinstance(given, inputs.WentSilent):
        machines.went_silent(turn, attempt, given)
    else:
        machines.heard_again(turn, attempt, given)


_MACHINE_INPUTS: dict[type[inputs.Input], Callable[[Turn, Machine, Any], None]] = {
    inputs.LaunchAnswered: machines.launch_answered,
    inputs.TerminateAnswered: machines.terminate_answered,
    inputs.InterruptAnswered: machines.interrupt_answered,
    inputs.Seen: machines.seen,
}


def _about_machine(turn: Turn, given: Any) -> None:
    machine = turn.record.machine(given.machine)
    if machine is not None:
        _MACHINE_INPUTS[type(given)](turn, machine, given)


def _woke(turn: Turn) -> None:
    """Look at every machine before any silence is judged."""
    for machine in turn.record.machines:
        if machine.state in (MachineState.RUNNING, MachineState.UNCONFIRMED):
            # An age by two clocks is none.
            turn.machine(machine.id, looks=0, absent_since=turn.at)
            turn.do(Look(machine=machine.id))
    for attempt in turn.record.attempts:
        if attempt.open and attempt.unheard_since is not None:
            # It was we who did not listen: its silence counts from now.
            attempt = turn.attempt(attempt.number, unheard_since=turn.at)
        if attempt.open:
            renew_lease(turn, attempt)


def _imported(turn: Turn, given: inputs.Imported) -> None:
    """Look after what is not over: its machines are asked about, its agents are told who listens now."""
    turn.tell("imported", f"the record was found in {given.url}", actor=given.actor)
    _woke(turn)
    for attempt in turn.record.attempts:
        machine = turn.record.machine(attempt.agent)
        if attempt.open and machine is not None and machine.state is MachineState.TERMINATED:
            ask_for_end_record(turn, attempt)
        elif attempt.open:
            turn.command(attempt, ResendEvents(after=attempt.events_through))
        elif machine is not None and machine.state is MachineState.RUNNING:
            release_machine(turn, attempt)
    if turn.record.busy:
        turn.do(Deposit())


def _retry(turn: Turn) -> None:
    if turn.record.run.state is RunState.RECOVERING and turn.record.current is None:
        plan_attempt(turn, Cause.ENDED)


def _end_again(turn: Turn, machine: Machine) -> None:
    if machine.state is MachineState.UNCONFIRMED:
        end_machine(turn, machine, "lifecycle")


def _look(turn: Turn, machine: Machine) -> None:
    if machine.state is not MachineState.TERMINATED:
        turn.do(Look(machine=machine.id))


_MACHINE_TIMERS: dict[str, Callable[[Turn, Machine], None]] = {
    "launch": machines.relaunch,
    "look": _look,
    "end": _end_again,
    "overdue": machines.overdue,
}
_ATTEMPT_TIMERS: dict[str, Callable[[Turn, Attempt], None]] = {"lease": renew_lease}


def _timer(turn: Turn, key: str) -> None:
    """Timers are level-triggered: each looks at the record to see whether it is still needed."""
    kind, _, name = key.partition(":")
    machine, attempt = turn.record.machine(name), turn.record.by_agent(name)
    if key == "retry":
        _retry(turn)
    elif kind == "end-record":
        attempt = turn.record.attempt(int(name))
        if attempt is not None and attempt.open:
            ask_for_end_record(turn, attempt)
    elif kind in _MACHINE_TIMERS and machine is not None:
        _MACHINE_TIMERS[kind](turn, machine)
    elif kind in _ATTEMPT_TIMERS and attempt is not None:
        _ATTEMPT_TIMERS[kind](turn, attempt)
