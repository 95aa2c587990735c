"""Asking the training to save, ending it, and the last word."""

from __future__ import annotations

from runctl_agent.core import faults, memory
from runctl_agent.core.effects import AskToSave, Drain, Flush, Kill, ShutDown, WriteEnd
from runctl_agent.core.model import MemoryTrace, State
from runctl_agent.core.phases import ALIVE, RUNNING, Phase
from runctl_agent.core.timers import shut_down_at
from runctl_agent.core.turn import Turn
from runctl_shared.messages.events import AttemptEnded, EndReason, Trigger

_REASON_OF: dict[str, EndReason] = {
    "notice": "interrupted",
    "stop": "stopped",
    "time_limit": "time_limit",
    "lease": "lost",
    "stalled": "stalled",
    "hardware": "hardware_fault",
}
_DETAIL_OF = {
    "notice": "the provider takes the machine",
    "stop": "stopped on request",
    "time_limit": "the time limit is reached",
    "lease": "nothing was heard from the controller, and no checkpoint was stored, for a whole lease",
    "stalled": "the training showed no step, output or checkpoint for longer than --stall-after allows",
    "hardware": "a GPU of the machine was lost, and the training did not go on without it",
}


def trigger(state: State, written_at: float) -> Trigger:
    """Why a checkpoint that was written at `written_at` was taken."""
    if state.asked_at is not None and written_at >= state.asked_at and state.cause is not None:
        return "notice" if state.cause == "notice" else "stop"
    return "final" if state.phase is Phase.FLUSHING else "periodic"


def begin_end(turn: Turn, cause: str, kill_at: float) -> None:
    """The attempt is to end, for `cause`: save first, be killed at `kill_at` at the latest.

    A second cause does not replace the first; it can only make the end come sooner, as the hard end does.
    What is not a notice is remembered apart, for a notice may be withdrawn (see `notice_gone`).
    """
    state = turn.state
    if state.phase in (Phase.FLUSHING, Phase.ENDED):
        return
    last = max(turn.at, state.hard_end_at - turn.rules.kill_margin)
    sooner = min(kill_at, last, kill_at if state.kill_at is None else state.kill_at)
    if state.cause is None:
        turn.change(cause=cause, cause_at=turn.at, save_only=False)
    turn.change(kill_at=sooner)
    if cause != "notice":
        own = min(kill_at, last, kill_at if state.own_kill_at is None else state.own_kill_at)
        turn.change(own_cause=state.own_cause or cause, own_kill_at=own)
    if state.phase not in RUNNING:
        finish(turn, _REASON_OF[cause], f"{_DETAIL_OF[cause]}, before the training began")
    elif state.phase is not Phase.STARTING and sooner > turn.at:
        ask(turn)


def notice_gone(turn: Turn) -> None:
    """The interruption was withdrawn: what else is to end the attempt does so in its own time. Without that,
    a training that was asked to save goes on, if it still runs."""
    state = turn.state
    turn.change(interruption=None, deadline_at=None)
    if state.cause is None or state.phase not in RUNNING:
        return
    if state.own_cause is not None:
        # Later than its own time only when, after a restart, the training was asked again.
        times = [at for at in (state.own_kill_at, state.kill_at) if at is not None]
        turn.change(cause=state.own_cause, kill_at=max(times, default=turn.at))
        if state.phase in ALIVE and not state.killed:
            ask(turn)  # there may have been no time for it
    elif state.cause == "notice" and not state.killed:
        turn.change(
            Phase.TRAINING if state.phase in ALIVE else None,
            cause=None,
            cause_at=None,
            kill_at=None,
            asked_at=None,
        )


def ask(turn: Turn) -> None:
    """Ask the training to save, once per cause."""
    state = turn.state
    since = state.cause_at if state.cause_at is not None else turn.at
    if state.asked_at is not None and state.asked_at >= since:
        return
    turn.change(Phase.SAVING, asked_at=turn.at, signalled_at=turn.at)
    turn.do(AskToSave(signal=turn.rules.signal))


def ask_again(turn: Turn) -> None:
    """After a restart nobody knows whether the signal was ever sent: it gets its time, if there is any."""
    state, margin = turn.state, turn.rules.kill_margin
    ends = [turn.at + turn.rules.grace, state.hard_end_at - margin]
    if state.deadline_at is not None:
        ends.append(state.deadline_at - margin)
    turn.change(kill_at=max(min(ends), turn.at if state.kill_at is None else state.kill_at))
    ask(turn)


def ask_only(turn: Turn) -> None:
    """Save now, and go on training."""
    if turn.state.phase is Phase.TRAINING:
        turn.change(Phase.SAVING, asked_at=turn.at, signalled_at=turn.at, cause_at=turn.at, save_only=True)
        turn.do(AskToSave(signal=turn.rules.signal))


def goes_on(turn: Turn) -> None:
    """It makes steps after all the time it had to save and end: so it does not end because of our signal."""
    state = turn.state
    if state.signalled_at is not None and turn.at > state.signalled_at + turn.rules.grace:
        turn.change(signalled_at=None)


def kill(turn: Turn) -> None:
    """The time is up. (A training that is just being started is killed by the next tick after it is up.)"""
    if turn.state.phase in ALIVE and not turn.state.killed:
        turn.change(killed=True)
        turn.do(Kill())


def exited(
    turn: Turn, code: int | None, signal: str | None, detail: str, traces: tuple[MemoryTrace, ...] = ()
) -> None:
    """The training is gone: store what is complete."""
    if turn.state.phase not in RUNNING:
        return
    turn.change(
        Phase.FLUSHING,
        exited=True,
        exit_code=code,
        exit_signal=signal,
        exit_detail=detail,
        traces=traces,
        ended_at=turn.at,
        flush_until=turn.at + turn.rules.flush,
    )
    flush_in_time(turn)
    turn.do(Flush())


def flush_in_time(turn: Turn) -> None:
    """Storing may take until the machine is taken, less a little for the last word: of a short notice no more
    than a share of what the kill has left."""
    until, deadline = turn.state.flush_until, turn.state.deadline_at
    if turn.state.phase is Phase.FLUSHING and until is not None and deadline is not None:
        kept = min(turn.rules.kill_margin, max(0.0, deadline - turn.at)) / 3
        turn.change(flush_until=max(turn.at, min(until, deadline - kept)))


def flushed(turn: Turn) -> None:
    """Everything that could be stored is: say how it ended."""
    if turn.state.phase is Phase.FLUSHING:
        finish(turn, *_verdict(turn))


def _verdict(turn: Turn) -> tuple[EndReason, str]:
    """Why it ended. An exit code 0 after our own signal is no success: nobody knows that it had finished.
    Nor is any other exit then the training's own fault. What the machine did to it comes before what it did
    itself."""
    state = turn.state
    ours = state.signalled_at is not None or state.killed
    if state.cause is not None and ours:
        return _REASON_OF[state.cause], _because(state)
    if state.exit_code == 0:
        if ours:
            return "interrupted", "the training ended when it was asked to save"
        return "succeeded", "the training finished"
    if (fault := faults.blamed(state)) is not None:
        return "hardware_fault", _with_exit(faults.words(fault), state)
    if (want := memory.ran_out(state)) is not None:
        return "out_of_memory", want
    if ours:
        return "interrupted", "the training ended when it was asked to save"
    if state.exit_code is None and state.exit_signal is None:
        return "agent_failed", state.exit_detail or "nobody knows how the training ended"
    how = f"signal {state.exit_signal}" if state.exit_signal else f"exit code {state.exit_code}"
    return "user_error", state.exit_detail or f"the training ended with {how}"


def _because(state: State) -> str:
    """Why an attempt ended that was to end."""
    gone = [fault for fault in state.faults if fault.gone]
    if state.cause == "hardware" and gone:
        return f"{_DETAIL_OF['hardware']} ({faults.words(gone[0])})"
    return _DETAIL_OF[state.cause or "stop"]


def _with_exit(text: str, state: State) -> str:
    return f"{text} ({state.exit_detail})" if state.exit_detail else text


def finish(turn: Turn, reason: EndReason, detail: str) -> None:
    """The last word: reported, and written to the checkpoint store, as the spool dies with the machine."""
    state = turn.state
    lost = 0.0
    steps: int | None = None
    if state.started_at is not None and reason != "succeeded":
        ended = state.ended_at if state.ended_at is not None else turn.at
        since = state.saved_at if state.saved_at is not None else state.started_at
        lost = max(0.0, ended - since)
        steps = _lost_steps(state)
    report = AttemptEnded(
        reason=reason,
        exit_code=state.exit_code,
        signal=state.exit_signal,
        last_step=_reached(state),
        saved_step=state.saved_step,
        lost_seconds=lost,
        lost_steps=steps,
        storing_seconds=0.0 if state.ended_at is None else max(0.0, turn.at - state.ended_at),
        exit_seconds=_exit_seconds(state),
        detail=detail,
    )
    turn.change(Phase.ENDED, report=report, over_at=turn.at)
    turn.report(report)
    turn.do(WriteEnd(record=report))
    turn.do(Drain())


def _exit_seconds(state: State) -> float | None:
    if state.ended_at is None or state.asked_at is None:
        return None
    return max(0.0, state.ended_at - state.asked_at)


def _reached(state: State) -> int | None:
    """The last step that is known: what was saved was reached, whether it was printed or not."""
    if state.last_step is None or state.saved_step is None or state.saved_at is None:
        return state.last_step
    return max(state.last_step, state.saved_step)


def _lost_steps(state: State) -> int | None:
    """Steps since the newest verified checkpoint; None when nobody knows how many there were."""
    base = state.saved_step if state.saved_step is not None else state.restored_step
    if state.last_step is None or (base is None and state.saved_at is not None):
        return None
    if base is not None and state.last_step < base and state.saved_at is not None:
        # It saved beyond what it had printed. Only when it was asked to, and ended, was that its last step.
        asked = state.asked_at is not None and state.saved_at >= state.asked_at
        return 0 if asked and not state.killed else None
    return max(0, state.last_step - (base or 0))


def maybe_shut_down(turn: Turn) -> None:
    """End the machine once its time has come."""
    due = shut_down_at(turn.state)
    if due is not None and turn.at >= due:
        turn.change(shut_down=True)
        turn.do(ShutDown())
