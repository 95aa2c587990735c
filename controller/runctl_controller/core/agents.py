"""What agents report. Events of attempts that have ended enter the story and never move the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from runctl_controller.core.effects import Look, SetTimer
from runctl_controller.core.lifecycle import (
    drop_open,
    end_attempt,
    end_late_machine,
    follow_attempt,
    permit,
    plan_attempt,
    release_machine,
    renew_lease,
    stop_attempts,
)
from runctl_controller.core.model import Attempt, Cause, Wanted
from runctl_controller.core.tables import OPEN_RUN, AttemptState, MachineState
from runctl_controller.core.turn import Turn
from runctl_shared.messages import events
from runctl_shared.messages.base import Body
from runctl_shared.units import format_bytes, format_duration

A = AttemptState
MOST_AHEAD = 3
"""Replacements that the notices of one attempt may cost while it is open: an agent that invents notices and
withdraws them could rent machine after machine."""


def registered(turn: Turn, attempt: Attempt, body: events.Registered) -> None:
    """The machine is up. (Also heard again when an agent was restarted: then nothing changes.)"""
    machine = turn.record.machine(attempt.agent)
    if machine is not None and machine.state is MachineState.LAUNCHING:
        # The agent is quicker than the provider's answer: it is evidence enough that the machine runs.
        turn.machine(machine.id, MachineState.RUNNING, launched_at=turn.at)
        turn.do(Look(machine=machine.id))  # since when it has run, the provider knows better
    attempt = turn.attempt(attempt.number, capabilities=body.capabilities)
    if attempt.state in (A.LAUNCHING, A.BOOTING):
        attempt = turn.attempt(attempt.number, A.STAGING)
        turn.use(attempt.agent, "staging")
        turn.machine(attempt.agent, looks=0)
        renew_lease(turn, attempt)
    turn.tell("registered", f"agent {attempt.agent} is up", attempt=attempt.number, actor="agent")
    if turn.record.run.wanted is not Wanted.TRAIN:
        stop_attempts(turn, save=True, actor="lifecycle")


def staged(turn: Turn, attempt: Attempt, body: events.Staged) -> None:
    if attempt.state is A.STAGING:
        turn.attempt(attempt.number, A.READY)
        turn.use(attempt.agent, "waiting")


def restored(turn: Turn, attempt: Attempt, body: events.CheckpointRestored) -> None:
    turn.attempt(attempt.number, restored_step=body.step, resumed_from=body.manifest)
    for why in body.damaged:
        turn.tell("damaged", f"a checkpoint is damaged and was passed over: {why}", attempt=attempt.number)
    turn.tell(
        "restored",
        f"restored {_step(body.step)} ({format_bytes(body.size)}, verified)",
        attempt=attempt.number,
        actor="agent",
        manifest=body.manifest,
        step=body.step,
        seconds=body.seconds,
        size=body.size,
    )


def training_started(turn: Turn, attempt: Attempt, body: events.TrainingStarted) -> None:
    if attempt.state is A.STARTING:
        turn.attempt(
            attempt.number,
            A.TRAINING,
            started_at=turn.happened,
            resumed_from=body.resumed_from,
            restored_step=body.restored_step,
        )
        turn.use(attempt.agent, "training")
    text = "from the beginning" if body.resumed_from is None else f"from {_step(body.restored_step)}"
    turn.tell("training", f"training started {text}", attempt=attempt.number, actor="agent", pid=body.pid)


def first_step(turn: Turn, attempt: Attempt, body: events.FirstStepSeen) -> None:
    """Resume is proven only by a first step that is not below the restored one."""
    turn.attempt(attempt.number, first_step=body.step)
    restored = body.restored_step
    proven = restored is None or body.step >= restored
    text = f"first step: {body.step}"
    if restored is not None:
        text += f" (restored {restored})" if proven else f", BELOW the restored {restored}: it did not resume"
    kind = "first_step" if proven else "not_resumed"
    turn.tell(kind, text, attempt=attempt.number, actor="agent", step=body.step, restored_step=restored)


def save_asked(turn: Turn, attempt: Attempt, body: events.SaveAsked) -> None:
    if attempt.state is A.TRAINING:
        turn.attempt(attempt.number, A.SAVING)
        turn.use(attempt.agent, "saving")
    turn.tell(
        "save",
        f"the training is asked to save ({body.signal}, {body.cause})",
        attempt=attempt.number,
        actor="agent",
        cause=body.cause,
        signal=body.signal,
        pids=list(body.pids),
        seconds_after_cause=body.seconds_after_cause,
    )


def committed(turn: Turn, attempt: Attempt, body: events.CheckpointCommitted) -> None:
    last = max((s for s in (attempt.last_step, body.step) if s is not None), default=None)
    attempt = turn.attempt(
        attempt.number,
        saved_step=attempt.saved_step if body.step is None else body.step,
        saved_at=turn.happened,
        newest=body.manifest,
        commits=attempt.commits + 1,
        last_step=last,
        unheard_since=None,
    )
    if attempt.state is A.SAVING and attempt.deadline_at is None and not attempt.stop_sent:
        turn.attempt(attempt.number, A.TRAINING)
        turn.use(attempt.agent, "training")
    if turn.record.run.fruitless:
        turn.run(fruitless=0)
    turn.tell(
        "checkpoint",
        f"checkpoint of {_step(body.step)} is safe ({format_bytes(body.size)}, {body.trigger})",
        attempt=attempt.number,
        actor="agent",
        manifest=body.manifest,
        step=body.step,
        size=body.size,
        trigger=body.trigger,
        upload_seconds=body.upload_seconds,
        save_seconds=body.save_seconds,
    )


def checkpoint_failed(turn: Turn, attempt: Attempt, body: events.CheckpointFailed) -> None:
    turn.tell("checkpoint_failed", f"{body.root}: {body.reason}", attempt=attempt.number, actor="agent")


def incomplete(turn: Turn, attempt: Attempt, body: events.CheckpointIncomplete) -> None:
    turn.tell(
        "incomplete",
        f"{body.root} was never complete, and is not stored: {body.reason}",
        attempt=attempt.number,
        actor="agent",
        root=body.root,
        reason=body.reason,
        size=body.size,
        save_seconds=body.save_seconds,
    )


def shared_file(turn: Turn, attempt: Attempt, body: events.SharedFileSeen) -> None:
    turn.tell(
        "shared_file",
        f"several processes write {body.path} at once: {', '.join(body.writers)}",
        attempt=attempt.number,
        actor="agent",
        path=body.path,
        writers=list(body.writers),
    )


def noticed(turn: Turn, attempt: Attempt, body: events.NoticeReceived) -> None:
    """At an interruption notice a replacement is launched at once; it trains once this attempt has ended."""
    when = "" if body.deadline is None else f", in {body.deadline:.0f} s"
    turn.tell(
        "notice",
        f"notice: {body.kind} ({body.action}{when})",
        attempt=attempt.number,
        actor="provider",
        notice_kind=body.kind,
        deadline=body.deadline,
    )
    if body.kind != "interruption":
        return
    turn.attempt(attempt.number, notice=body.notice, noticed_at=turn.at)
    if body.deadline is not None:
        turn.attempt(attempt.number, deadline_at=turn.at + body.deadline)
        turn.do(SetTimer(key=f"look:{attempt.agent}", at=turn.at + body.deadline + turn.world.look))
    run = turn.record.run
    standby = any(a.open and a.number > attempt.number for a in turn.record.attempts)
    ahead = sum(a.number > attempt.number for a in turn.record.attempts)
    if run.wanted is Wanted.TRAIN and run.state in OPEN_RUN and not standby and ahead < MOST_AHEAD:
        plan_attempt(turn, Cause.NOTICE)


def withdrawn(turn: Turn, attempt: Attempt, body: events.NoticeWithdrawn) -> None:
    turn.tell("notice", "the notice was withdrawn", attempt=attempt.number, actor="provider")
    if body.notice == attempt.notice:
        turn.attempt(attempt.number, notice=None, deadline_at=None, noticed_at=None)
        drop_open(turn)  # its replacement is not needed


def claimed(turn: Turn, attempt: Attempt, body: events.Claimed) -> None:
    text = f"attempt {attempt.number} holds the lineage, from {body.parent or 'the beginning'}"
    turn.tell("claimed", text, attempt=attempt.number, actor="agent", parent=body.parent)


def gpu_fault(turn: Turn, attempt: Attempt, body: events.GpuFaultSeen) -> None:
    """Only told: what it means for the attempt is in the attempt's end."""
    number = "" if body.code is None else f"Xid {body.code}, "
    whose = {"hardware": "", "application": " (an error of the program)", "unknown": " (of unknown cause)"}
    turn.tell(
        "gpu_fault",
        f"GPU {body.device}: {number}{body.meaning}{whose[body.blame]}",
        attempt=attempt.number,
        actor="agent",
        device=body.device,
        code=body.code,
        blame=body.blame,
    )


def stalled(turn: Turn, attempt: Attempt, body: events.TrainingStalled) -> None:
    seen = ["an unknown use of the processor" if body.cpu is None else f"{body.cpu:.2f} cores in use"]
    seen += [] if body.gpu_percent is None else [f"the GPU at {body.gpu_percent:.0f} %"]
    seen += [f"processes: {body.processes}"] if body.processes else []
    what = (
        f"no step, output or checkpoint for {format_duration(body.seconds)} (after {_step(body.last_step)}; "
    )
    then = "; it is ended, as --stall-after says" if body.ends else "; it is left alone"
    turn.tell(
        "stalled",
        f"{what}{', '.join(seen)}){then}",
        attempt=attempt.number,
        actor="agent",
        seconds=body.seconds,
        step=body.last_step,
        cpu=body.cpu,
        gpu_percent=body.gpu_percent,
        ends=body.ends,
    )


def stall_ended(turn: Turn, attempt: Attempt, body: events.StallEnded) -> None:
    text = f"the training moves again, after {format_duration(body.seconds)}"
    turn.tell("moves", text, attempt=attempt.number, actor="agent", seconds=body.seconds)


def not_supported(turn: Turn, attempt: Attempt, body: events.CommandNotSupported) -> None:
    text = f"the agent does not know the command {body.kind}"
    turn.tell("not_supported", text, attempt=attempt.number, actor="agent")


def ended(turn: Turn, attempt: Attempt, body: events.AttemptEnded) -> None:
    end_attempt(turn, attempt, body)


_HANDLERS: dict[type[Body], Callable[[Turn, Attempt, Any], None]] = {
    events.Registered: registered,
    events.Staged: staged,
    events.Claimed: claimed,
    events.CheckpointRestored: restored,
    events.TrainingStarted: training_started,
    events.FirstStepSeen: first_step,
    events.SaveAsked: save_asked,
    events.CheckpointCommitted: committed,
    events.CheckpointFailed: checkpoint_failed,
    events.CheckpointIncomplete: incomplete,
    events.SharedFileSeen: shared_file,
    events.NoticeReceived: noticed,
    events.NoticeWithdrawn: withdrawn,
    events.GpuFaultSeen: gpu_fault,
    events.TrainingStalled: stalled,
    events.StallEnded: stall_ended,
    events.CommandNotSupported: not_supported,
    events.AttemptEnded: ended,
}


def hear(turn: Turn, attempt: Attempt, body: Body) -> None:
    """One event, in its order. An ended attempt's is told and changes nothing but the end of its machine."""
    if not attempt.open:
        kind = type(body).__name__
        turn.tell("late", f"{kind} came after the end of attempt {attempt.number}", attempt=attempt.number)
        _late_notice(turn, attempt, body)
        if isinstance(body, events.Registered):
            end_late_machine(turn, attempt)
        return
    handler = _HANDLERS.get(type(body))
    if handler is not None:
        handler(turn, attempt, body)
    permit(turn)
    follow_attempt(turn)


def _late_notice(turn: Turn, attempt: Attempt, body: Body) -> None:
    """A machine that was left to its provider is taken sooner than was said, or not at all: then it is ended
    by us. The run has gone on elsewhere."""
    machine = turn.record.machine(attempt.agent)
    if attempt.reason != "interrupted" or machine is None or machine.state is not MachineState.RUNNING:
        return
    if isinstance(body, events.NoticeWithdrawn) and body.notice == attempt.notice:
        release_machine(turn, turn.attempt(attempt.number, notice=None, deadline_at=None))
    elif (
        isinstance(body, events.NoticeReceived) and body.kind == "interruption" and body.deadline is not None
    ):
        until = turn.at + body.deadline
        release_machine(turn, turn.attempt(attempt.number, notice=body.notice, deadline_at=until))


def _step(step: int | None) -> str:
    return "an unknown step" if step is None else f"step {step}"
