"""The agent's core: decide(state, input) -> (state', effects). No I/O, no clock, no randomness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from runctl_agent.core import commands, ending, faults, inputs, movement, stall, timers
from runctl_agent.core.effects import Claim, Drain, Effect, Flush, Kill, Restore, Stage, Train, WriteEnd
from runctl_agent.core.model import State
from runctl_agent.core.phases import ALIVE, RUNNING, Phase
from runctl_agent.core.turn import Turn
from runctl_shared.messages import events

SHARE_KEPT = 0.2
"""Of a short notice, the share that is kept back for storing what was saved."""

MOVED = 2.0
"""Seconds by which a deadline must come nearer to be reported again: providers name whole seconds."""
STOOD_STILL = 3.0
"""Seconds of sleep in which a renewal of the lease may have been missed."""


class Decision(msgspec.Struct, frozen=True):
    state: State
    effects: tuple[Effect, ...]


def decide(state: State, given: inputs.Input) -> Decision:
    """What follows from `given`. Inputs that come too late for the present phase change nothing."""
    turn = Turn(state, given.at)
    _HANDLERS[type(given)](turn, given)
    return Decision(turn.state, tuple(turn.effects))


def _booted(turn: Turn, given: inputs.Booted) -> None:
    """First start, or a restart: then every phase is entered again, and does nothing twice."""
    if not given.again:
        turn.report(given.hello)
        turn.do(Stage())
        return
    phase = turn.state.phase
    if phase in RUNNING:
        _adopt(turn, given)
    again: dict[Phase, Effect] = {
        Phase.STAGING: Stage(),
        Phase.CLAIMING: Claim(),
        Phase.RESTORING: Restore(),
        Phase.FLUSHING: Flush(),
    }
    if phase in again:
        turn.do(again[phase])
    elif phase is Phase.ENDED and turn.state.report is not None:
        turn.change(drained=False)
        turn.do(WriteEnd(record=turn.state.report))
        turn.do(Drain())


def _adopt(turn: Turn, given: inputs.Booted) -> None:
    state = turn.state
    turn.change(back_at=given.at, unseen_from=state.stepped_at)
    if given.trainer == "alive":
        if state.moved_at is not None:
            turn.change(moved_at=given.at, busy=False)  # nobody looked while no agent was there
        if state.phase is Phase.STARTING:
            _training_up(turn, inputs.TrainingUp(at=given.at, pid=given.pid or 0))
        if state.killed:
            turn.do(Kill())
        elif state.phase is Phase.SAVING:
            turn.change(Phase.TRAINING, asked_at=None)
            if state.cause is not None:
                ending.ask_again(turn)
    elif given.trainer == "exited":
        if state.phase is Phase.STARTING:
            _training_up(turn, inputs.TrainingUp(at=given.at, pid=given.pid or 0))
        ending.exited(turn, given.exit_code, given.signal, "")
    elif state.phase is Phase.STARTING:
        turn.do(Train(resume_path=state.resume_path, restored=state.restored))
    else:
        ending.exited(turn, None, None, "the agent died, and the training with it")


def _staged(turn: Turn, given: inputs.Staged) -> None:
    if turn.state.phase is Phase.STAGING:
        turn.change(Phase.READY)
        turn.report(events.Staged(seconds=given.seconds))
        if turn.state.permitted:
            commands.claim(turn)


def _staging_failed(turn: Turn, given: inputs.StagingFailed) -> None:
    if turn.state.phase is Phase.STAGING:
        ending.finish(turn, "stage_failed", given.detail)


def _claimed(turn: Turn, given: inputs.Claimed) -> None:
    if turn.state.phase is Phase.CLAIMING:
        turn.change(Phase.RESTORING, parent=given.parent)
        turn.report(events.Claimed(parent=given.parent))
        turn.do(Restore())


def _claim_failed(turn: Turn, given: inputs.ClaimFailed) -> None:
    if turn.state.phase is Phase.CLAIMING:
        ending.finish(turn, "replaced" if given.superseded else "store_failed", given.detail)


def _restored(turn: Turn, given: inputs.Restored) -> None:
    if turn.state.phase is not Phase.RESTORING:
        return
    turn.change(
        Phase.STARTING,
        restored=given.manifest,
        restored_step=given.step,
        resume_path=given.path,
        saved_step=given.step,
    )
    if given.manifest is not None:
        turn.report(
            events.CheckpointRestored(
                manifest=given.manifest,
                step=given.step,
                size=given.size,
                seconds=given.seconds,
                damaged=given.damaged,
            )
        )
    turn.do(Train(resume_path=given.path, restored=given.manifest))


def _restore_failed(turn: Turn, given: inputs.RestoreFailed) -> None:
    if turn.state.phase is Phase.RESTORING:
        ending.finish(turn, "store_failed", given.detail)


def _training_up(turn: Turn, given: inputs.TrainingUp) -> None:
    if turn.state.phase is not Phase.STARTING:
        return
    state = turn.state
    turn.change(Phase.TRAINING, pid=given.pid, started_at=given.at)
    turn.report(
        events.TrainingStarted(pid=given.pid, resumed_from=state.restored, restored_step=state.restored_step)
    )
    if state.cause is not None:
        ending.ask(turn)


def _cannot_start(turn: Turn, given: inputs.TrainingCannotStart) -> None:
    if turn.state.phase is Phase.STARTING:
        turn.change(exit_code=given.exit_code)
        ending.finish(turn, "user_error", given.detail)


def _exited(turn: Turn, given: inputs.TrainingExited) -> None:
    if turn.state.phase is Phase.STARTING:
        _training_up(turn, inputs.TrainingUp(at=given.at, pid=0))
    ending.exited(turn, given.exit_code, given.signal, given.detail, given.traces)


def _step(turn: Turn, given: inputs.StepSeen) -> None:
    state = turn.state
    if state.first_step is None:
        began = state.started_at if state.started_at is not None else given.at
        turn.change(first_step=given.step)
        turn.report(
            events.FirstStepSeen(
                step=given.step, restored_step=state.restored_step, seconds=max(0.0, given.at - began)
            )
        )
    if given.step != state.last_step or state.first_step is None:
        turn.change(last_step=given.step, stepped_at=given.at)
        movement.moved(turn, given.at)
    if state.cause is None and given.step != state.last_step and state.phase in ALIVE:
        ending.goes_on(turn)


def _signal_sent(turn: Turn, given: inputs.SignalSent) -> None:
    state = turn.state
    since = state.cause_at if state.cause_at is not None else given.at
    turn.report(
        events.SaveAsked(
            cause="request" if state.save_only or state.cause is None else state.cause,  # type: ignore[arg-type]  # the causes are SaveCause's
            signal=given.signal,
            pids=given.pids,
            seconds_after_cause=max(0.0, given.at - since),
        )
    )


def _stored(turn: Turn, given: inputs.Stored) -> None:
    """A commit is proof of work: it renews the lease."""
    state = turn.state
    asked = state.asked_at is not None and given.written_at >= state.asked_at
    turn.change(
        saved_step=state.saved_step if given.step is None else given.step,
        saved_at=given.written_at,
        saved_manifest=given.manifest,
        lease_until=max(state.lease_until, given.at + turn.rules.lease),
        overslept=False,
    )
    # To save on request needs no step: a training that hangs may still answer signals.
    if not asked if given.step is None else given.step not in (state.saved_step, state.last_step):
        movement.moved(turn, min(given.written_at, given.at))
    turn.report(
        events.CheckpointCommitted(
            manifest=given.manifest,
            step=given.step,
            epoch=given.epoch,
            size=given.size,
            files=given.files,
            format=given.format,
            trigger=ending.trigger(state, given.written_at),
            upload_seconds=given.upload_seconds,
            save_seconds=given.written_at - (state.asked_at or 0.0) if asked else None,
            written_at=given.wall,
        )
    )
    if state.phase is Phase.SAVING and state.save_only and asked:
        turn.change(Phase.TRAINING, save_only=False, cause_at=None, asked_at=None)


def _not_stored(turn: Turn, given: inputs.NotStored) -> None:
    turn.report(events.CheckpointFailed(root=given.root, reason=given.reason))


def _never_complete(turn: Turn, given: inputs.NeverComplete) -> None:
    state = turn.state
    if state.phase is not Phase.FLUSHING:
        return  # after the last word nothing is told
    asked = state.asked_at is not None and given.written_at >= state.asked_at
    turn.report(
        events.CheckpointIncomplete(
            root=given.root,
            reason=given.reason,
            size=given.size,
            save_seconds=given.written_at - (state.asked_at or 0.0) if asked else None,
        )
    )


def _rivals(turn: Turn, given: inputs.RivalsSeen) -> None:
    if turn.state.phase in RUNNING | {Phase.FLUSHING}:
        turn.report(events.SharedFileSeen(path=given.path, writers=given.writers))


def _flushed(turn: Turn, given: inputs.Flushed) -> None:
    ending.flushed(turn)


def _notice(turn: Turn, given: inputs.NoticeSeen) -> None:
    """One notice is reported once, however often it is served, and again only when its time comes nearer."""
    state = turn.state
    deadline_at = None if given.deadline is None else given.at + given.deadline
    new = given.id not in state.notices
    if new:
        turn.change(notices=(*state.notices, given.id)[-50:])
    if new or _nearer(state, given, deadline_at):
        turn.report(
            events.NoticeReceived(
                notice=given.id,
                kind=given.kind,
                action=given.action,
                deadline=None if given.deadline is None else max(0.0, given.deadline),
                source=given.source,
            )
        )
    if given.kind != "interruption":
        if new:
            ending.ask_only(turn)
        return
    sooner = [t for t in (state.deadline_at, deadline_at) if t is not None]
    turn.change(interruption=given.id, deadline_at=min(sooner, default=None))
    ending.flush_in_time(turn)
    ending.begin_end(turn, "notice", _kill_at(turn))


def _nearer(state: State, given: inputs.NoticeSeen, deadline_at: float | None) -> bool:
    """Whether the machine is to be taken so much sooner that whoever waits for its end must know."""
    known = state.deadline_at
    return (
        given.id == state.interruption
        and deadline_at is not None
        and (known is None or deadline_at < known - MOVED)
    )


def _kill_at(turn: Turn) -> float:
    """A little before the provider takes the machine, so that what was saved can still be stored, and two
    machines never train at once. Of a short notice the training gets the most."""
    at = turn.state.deadline_at
    if at is None:
        return turn.at + turn.rules.grace
    return at - min(turn.rules.kill_margin, max(0.0, at - turn.at) * SHARE_KEPT)


def _notice_gone(turn: Turn, given: inputs.NoticeGone) -> None:
    state = turn.state
    if given.id not in state.notices:
        return
    turn.change(notices=tuple(n for n in state.notices if n != given.id))
    turn.report(events.NoticeWithdrawn(notice=given.id))
    if given.id == state.interruption:
        ending.notice_gone(turn)


def _moved(turn: Turn, given: inputs.Moved) -> None:
    movement.moved(turn, given.at)


def _recorded(turn: Turn, given: inputs.EndRecorded) -> None:
    turn.change(recorded=True)
    ending.maybe_shut_down(turn)


def _drained(turn: Turn, given: inputs.Drained) -> None:
    turn.change(drained=True)
    ending.maybe_shut_down(turn)


def _tick(turn: Turn, given: inputs.Tick) -> None:
    state, margin = turn.state, turn.rules.kill_margin
    if state.phase is Phase.ENDED:
        ending.maybe_shut_down(turn)
        return
    if state.phase is Phase.FLUSHING:
        if state.flush_until is not None and given.at >= state.flush_until:
            ending.flushed(turn)
        return
    if state.cause is None and given.at >= timers.hard_end_notice(state):
        ending.begin_end(turn, "time_limit", max(given.at, state.hard_end_at - margin))
    elif state.cause is None and given.at >= state.lease_until:
        if given.slept > STOOD_STILL and not state.overslept:
            # All of the machine may have stood still, its controller too: let that be heard first.
            turn.change(overslept=True, lease_until=given.at + turn.rules.lease / 3)
        else:
            ending.begin_end(turn, "lease", given.at + turn.rules.grace)
    movement.look(turn)
    if turn.state.kill_at is not None and given.at >= turn.state.kill_at:
        ending.kill(turn)


_HANDLERS: dict[type[inputs.Input], Callable[[Turn, Any], None]] = {
    inputs.Booted: _booted,
    inputs.CommandArrived: commands.arrived,
    inputs.Staged: _staged,
    inputs.StagingFailed: _staging_failed,
    inputs.Claimed: _claimed,
    inputs.ClaimFailed: _claim_failed,
    inputs.Restored: _restored,
    inputs.RestoreFailed: _restore_failed,
    inputs.TrainingUp: _training_up,
    inputs.TrainingCannotStart: _cannot_start,
    inputs.TrainingExited: _exited,
    inputs.StepSeen: _step,
    inputs.SignalSent: _signal_sent,
    inputs.Stored: _stored,
    inputs.NotStored: _not_stored,
    inputs.NeverComplete: _never_complete,
    inputs.RivalsSeen: _rivals,
    inputs.Flushed: _flushed,
    inputs.NoticeSeen: _notice,
    inputs.NoticeGone: _notice_gone,
    inputs.HardwareFaultSeen: faults.seen,
    inputs.LookedAround: stall.looked,
    inputs.Moved: _moved,
    inputs.EndRecorded: _recorded,
    inputs.Drained: _drained,
    inputs.Tick: _tick,
}
