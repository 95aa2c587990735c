"""What providers say about machines, and what silence means (nothing, by itself)."""

from __future__ import annotations

from runctl_controller.core.effects import ForgetAgent, Launch, ReadCommits
from runctl_controller.core.inputs import (
    CommitsRead,
    EndRead,
    HeardAgain,
    InterruptAnswered,
    LaunchAnswered,
    Seen,
    TerminateAnswered,
    WentSilent,
)
from runctl_controller.core.ledger import fit
from runctl_controller.core.lifecycle import (
    ask_for_end_record,
    end_attempt,
    end_machine,
    follow_attempt,
    look_again,
    look_now,
    looked_for,
)
from runctl_controller.core.model import Attempt, Machine, Wanted
from runctl_controller.core.reasons import wait_before
from runctl_controller.core.tables import AttemptState, MachineState
from runctl_controller.core.turn import Turn
from runctl_controller.providers.port import EndCause, Sighting
from runctl_controller.providers.port import MachineState as Provided
from runctl_shared.messages.events import AttemptEnded, EndReason

# A provider may not list a machine that it has just launched; only when it has not done so for this many
# seconds, looked at again and again, does its absence mean that there is none.
ABSENCE_COUNTS_AFTER = 120.0
ABSENT_LOOKS = 5  # and so many looks, as a clock can jump between a question and its answer
END_READS = 7
"""How often an unreadable store is asked for a final record: some five minutes in all."""
_FINAL_ERRORS: dict[str, EndReason] = {"no_capacity": "no_capacity", "quota": "quota", "refused": "refused"}
_REASONS: dict[EndCause, EndReason] = {
    EndCause.INTERRUPTED: "interrupted",
    EndCause.BOOT_FAILED: "boot_failed",
    EndCause.FAILED: "lost",
    EndCause.ITSELF: "lost",
    EndCause.ASKED: "replaced",
    EndCause.UNKNOWN: "lost",
}


def launch_answered(turn: Turn, machine: Machine, given: LaunchAnswered) -> None:
    """A machine, a final no, or a passing failure: then the same order is asked for again."""
    attempt = turn.record.attempt(machine.attempt)
    if machine.state is MachineState.TERMINATED:
        return
    if given.sighting is not None and given.sighting.state is Provided.TERMINATED:
        # One that we had launched before we died, and that has ended since, or never came up.
        seen(turn, machine, Seen(at=given.at, machine=machine.id, sighting=given.sighting))
    elif given.sighting is not None:
        _launched(turn, machine, attempt, given.sighting)
    elif machine.state is MachineState.RUNNING or given.error is None:
        return
    elif given.error in _FINAL_ERRORS:
        _gone(turn, machine, None)
        if attempt is not None:
            report = AttemptEnded(reason=_FINAL_ERRORS[given.error], detail=given.detail)
            end_attempt(turn, attempt, report, actor="provider")
    elif machine.state is MachineState.LAUNCHING:
        turn.machine(machine.id, trouble=given.detail)
        turn.after(f"launch:{machine.id}", wait_before(machine.asks))
        turn.tell(
            "provider",
            f"the launch is tried again: {given.detail}",
            attempt=machine.attempt,
            actor="provider",
        )
    follow_attempt(turn)


def _launched(turn: Turn, machine: Machine, attempt: Attempt | None, sighting: Sighting) -> None:
    machine = _learn(turn, machine, sighting)
    if machine.state is not MachineState.LAUNCHING:
        return
    machine = turn.machine(machine.id, MachineState.RUNNING, trouble="")
    if attempt is None or not attempt.open:
        end_machine(turn, machine, "lifecycle")
        return
    if attempt.state is AttemptState.LAUNCHING:
        turn.attempt(attempt.number, AttemptState.BOOTING)
    # A machine that is taken before its agent registers, or whose agent never does, is noticed by looking.
    look_again(turn, machine)


def _learn(turn: Turn, machine: Machine, sighting: Sighting) -> Machine:
    """Since when the machine is paid for: only the provider knows, and says so when it first names it."""
    if machine.provider_id or not sighting.provider_id:
        return machine
    known = machine.launched_at
    launched = next((t for t in (sighting.launched_at, known) if t is not None), turn.at)
    machine = turn.machine(machine.id, provider_id=sighting.provider_id, launched_at=launched)
    if known is None:
        turn.use(machine.id, "boot", since=launched)
    else:
        turn.intervals(fit(turn.record.intervals, machine.id, launched, None))
    return machine


def relaunch(turn: Turn, machine: Machine) -> None:
    """Ask again with the same token: it is the same machine, if there is one."""
    if machine.state is MachineState.LAUNCHING:
        turn.machine(machine.id, asks=machine.asks + 1)
        turn.do(Launch(machine=machine.id))


def terminate_answered(turn: Turn, machine: Machine, given: TerminateAnswered) -> None:
    """An answer to terminate is no proof. Failing to ask is a reason to ask again."""
    if machine.state is MachineState.TERMINATED or given.error is None:
        return
    turn.machine(machine.id, trouble=given.detail)
    turn.tell("provider", f"ending {machine.id} failed, asked again: {given.detail}", attempt=machine.attempt)
    turn.after(f"end:{machine.id}", wait_before(machine.asks))


def interrupt_answered(turn: Turn, machine: Machine, given: InterruptAnswered) -> None:
    if given.error is not None:
        text = f"the drill could not begin: {given.detail}"
        turn.tell("drill_failed", text, attempt=machine.attempt, actor="provider")


def seen(turn: Turn, machine: Machine, given: Seen) -> None:
    """The provider described the machine: the only thing by which it can be known to be gone."""
    if machine.state is MachineState.TERMINATED:
        return
    sighting = given.sighting
    machine = turn.machine(machine.id, looked_at=turn.at, trouble=given.detail)
    if sighting is None:
        look_again(turn, machine)
        return
    machine = _learn(turn, machine, sighting)
    absent = sighting.state is Provided.ABSENT
    if absent:
        since = machine.absent_since if machine.absent_since is not None else turn.at
        machine = turn.machine(machine.id, absent_since=since)
        gone = turn.at - since > ABSENCE_COUNTS_AFTER and machine.looks >= ABSENT_LOOKS
    else:
        machine = turn.machine(machine.id, absent_since=None)
        gone = sighting.state is Provided.TERMINATED
    if gone:
        _gone(turn, machine, sighting)
        _evidence(turn, machine, sighting)
    elif absent:
        look_again(turn, machine, most=15.0)
    else:
        _still_there(turn, machine)


def _gone(turn: Turn, machine: Machine, sighting: Sighting | None) -> None:
    said = None if sighting is None else sighting.ended_at
    ended = next((t for t in (said, machine.absent_since) if t is not None), turn.at)
    cause = None if sighting is None or sighting.cause is None else sighting.cause.value
    if machine.launched_at is not None:
        turn.intervals(fit(turn.record.intervals, machine.id, machine.launched_at, ended))
    turn.machine(machine.id, MachineState.TERMINATED, ended_at=ended, cause=cause)
    turn.do(ForgetAgent(agent=machine.id))
    if sighting is not None:
        absent = sighting.state is Provided.ABSENT
        listed = f"the provider here does not list machine {machine.id}: it counts as gone"
        text = listed if absent else f"machine {machine.id} is gone ({cause or 'for a reason not told'})"
        turn.tell("machine", text, attempt=machine.attempt, actor="provider", cause=cause)


def _evidence(turn: Turn, machine: Machine, sighting: Sighting) -> None:
    """The machine is gone: so has its attempt. What it last recorded may lie in the store."""
    attempt = turn.record.attempt(machine.attempt)
    if attempt is not None and attempt.open:
        ask_for_end_record(turn, attempt)


def _still_there(turn: Turn, machine: Machine) -> None:
    attempt = turn.record.attempt(machine.attempt)
    if machine.state is MachineState.UNCONFIRMED:
        if machine.looks and machine.looks % 8 == 0:
            turn.after(f"end:{machine.id}", 0.0)
        look_again(turn, machine)
    elif attempt is not None and attempt.open and attempt.unheard_since is not None:
        _judge_silence(turn, machine, attempt)
    elif attempt is not None and attempt.open and attempt.state is AttemptState.BOOTING:
        _boots(turn, machine)
    elif attempt is not None and attempt.deadline_at is not None:
        look_again(turn, machine, most=15.0)


def _boots(turn: Turn, machine: Machine) -> None:
    """Its own watchdog ends a machine whose agent never starts; one that outlives it is ended by us."""
    waited = looked_for(turn, machine)
    if waited <= 2 * turn.world.boot_limit + turn.world.look:
        look_again(turn, machine)
        return
    text = f"its agent has not registered for {waited:.0f} s: the machine is ended"
    turn.tell("boot", text, attempt=machine.attempt)
    end_machine(turn, machine, "lifecycle")


def _judge_silence(turn: Turn, machine: Machine, attempt: Attempt) -> None:
    """Up, but unheard: only after a whole lease without a word or a commit is it fenced and replaced. By
    then it has ended itself, if it still can. Whether it committed, the checkpoint store tells."""
    if _silence(turn, attempt) <= turn.world.lease + turn.world.look:
        look_again(turn, machine, most=max(turn.world.look, turn.world.lease / 10))
    else:
        turn.do(ReadCommits(attempt=attempt.number))


def _silence(turn: Turn, attempt: Attempt) -> float:
    return turn.at - max(attempt.unheard_since or 0.0, attempt.saved_at or 0.0)


def commits_read(turn: Turn, attempt: Attempt, given: CommitsRead) -> None:
    """What the store knows of an agent that is not heard. Not to know is no reason to end anything."""
    machine = turn.record.machine(attempt.agent)
    if machine is None or machine.state is not MachineState.RUNNING:
        return
    if not attempt.open or attempt.unheard_since is None:
        return
    silence = _silence(turn, attempt)
    commits = (given.newest or "") > (attempt.newest or "")  # the names of one attempt's are in their order
    if given.error is None and not commits and silence > turn.world.lease:
        text = f"no word and no checkpoint for {silence:.0f} s, a whole lease: the machine is ended"
        turn.tell("fenced", text, attempt=attempt.number, silence=silence)
        end_machine(turn, machine, "lifecycle")
        return
    if given.error is None and commits:
        turn.attempt(attempt.number, newest=given.newest, saved_at=turn.at)
        turn.tell("alive", "unheard, but it has stored a checkpoint since", attempt=attempt.number)
    look_again(turn, machine, most=max(turn.world.look, turn.world.lease / 10))


def end_read(turn: Turn, attempt: Attempt, given: EndRead) -> None:
    """End the attempt whose machine is gone: by its own last record if there is one, else by the cause."""
    if not attempt.open:
        return
    if given.error is not None and _ask_again(turn, attempt, given.error):
        return
    if given.record is not None:
        end_attempt(turn, attempt, given.record)
        return
    machine = turn.record.machine(attempt.agent)
    cause = EndCause(machine.cause) if machine is not None and machine.cause else EndCause.UNKNOWN
    reason = _REASONS[cause]
    if cause is EndCause.ASKED and turn.record.run.wanted is not Wanted.TRAIN:
        reason = "stopped"
    elif cause is EndCause.ASKED and attempt.state in (AttemptState.LAUNCHING, AttemptState.BOOTING):
        reason = "boot_failed"
    elif cause is EndCause.ASKED and attempt.unheard_since is not None:
        reason = "lost"
    end_attempt(turn, attempt, _inferred(turn, attempt, reason), actor="provider")


def _ask_again(turn: Turn, attempt: Attempt, error: str) -> bool:
    """The store could not be asked for the final record. The machine is gone, so there is time to ask again,
    but not for ever: what the record would say can be inferred."""
    wanted = turn.record.run.wanted is Wanted.TRAIN
    if not wanted or attempt.end_reads >= END_READS:
        return False
    if error != attempt.store_error:
        turn.tell("store", f"the checkpoint store cannot be read: {error}", attempt=attempt.number)
    turn.attempt(attempt.number, end_reads=attempt.end_reads + 1, store_error=error)
    turn.after(f"end-record:{attempt.number}", wait_before(attempt.end_reads + 1))
    return True


def _inferred(turn: Turn, attempt: Attempt, reason: EndReason) -> AttemptEnded:
    """The report that the agent could not make: what is lost follows from what it last said."""
    began = attempt.saved_at if attempt.saved_at is not None else attempt.started_at
    machine = turn.record.machine(attempt.agent)
    ended = turn.at if machine is None or machine.ended_at is None else machine.ended_at
    steps = None
    if attempt.last_step is not None and attempt.saved_step is not None:
        steps = max(0, attempt.last_step - attempt.saved_step)
    return AttemptEnded(
        reason=reason,
        last_step=attempt.last_step,
        saved_step=attempt.saved_step,
        lost_seconds=0.0 if began is None else max(0.0, ended - began),
        lost_steps=steps,
    )


def went_silent(turn: Turn, attempt: Attempt, given: WentSilent) -> None:
    """Unheard is not dead: look at the machine."""
    machine = turn.record.machine(attempt.agent)
    if not attempt.open or attempt.unheard_since is not None or machine is None:
        return
    turn.attempt(attempt.number, unheard_since=given.heard_at)
    text = f"agent {attempt.agent} is not heard; the training may well go on"
    turn.tell("unheard", text, attempt=attempt.number)
    turn.machine(machine.id, looks=0)
    look_now(turn, machine)


def heard_again(turn: Turn, attempt: Attempt, given: HeardAgain) -> None:
    if attempt.open and attempt.unheard_since is not None:
        turn.attempt(attempt.number, unheard_since=None)
        turn.tell("heard", f"agent {attempt.agent} is heard again", attempt=attempt.number)


def overdue(turn: Turn, machine: Machine) -> None:
    """The provider named a time and did not take the machine: end it ourselves."""
    if machine.state is MachineState.RUNNING:
        end_machine(turn, machine, "lifecycle")
