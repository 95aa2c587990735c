"""What people (and their automation) ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runctl_controller.core.effects import CancelTimer, Interrupt, RemoveRecord
from runctl_controller.core.lifecycle import plan_attempt, stop_attempts
from runctl_controller.core.limits import seconds_used, used_up
from runctl_controller.core.model import Cause, Record, Run, Wanted
from runctl_controller.core.tables import OPEN_RUN, RUNS, AttemptState, MachineState, RunState
from runctl_controller.core.turn import Turn
from runctl_shared.errors import NotFound, RefusedByGuard
from runctl_shared.messages.replies import Done
from runctl_shared.messages.requests import (
    CancelRun,
    InterruptRun,
    RemoveRun,
    ResumeRun,
    StopRun,
    SubmitRun,
)
from runctl_shared.spec import RunSpec, check_spec
from runctl_shared.units import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from runctl_shared.messages.base import Body

_ENDED = "It has ended; start a new one with `runctl run`."


def new_record(body: SubmitRun, at: float) -> Record:
    """The record of a run that was just asked for."""
    return Record(run=Run(spec=body.spec, created_at=at, since=at))


def submit(turn: Turn, body: SubmitRun, actor: str) -> Done:
    """Begin. Asking again for the same run changes nothing."""
    run = turn.record.run
    if run.newest == 0 and run.state is RunState.QUEUED:
        turn.tell("run", f"{run.spec.name} was submitted", actor=actor)
        plan_attempt(turn, Cause.SUBMITTED)
    return Done(run=run.id, note=f"{run.spec.name} is {turn.record.run.state.value}")


def stop(turn: Turn, body: StopRun, actor: str) -> Done:
    """Save, then end; resumable."""
    run = turn.record.run
    if run.state is RunState.PAUSED:
        return Done(run=run.id, note=f"{run.spec.name} is paused already")
    if run.state not in OPEN_RUN:
        raise RefusedByGuard(f"{run.spec.name} is {run.state.value}: there is nothing to stop.")
    if run.wanted is Wanted.CANCEL:
        return Done(run=run.id, note=f"{run.spec.name} is being cancelled already")
    turn.run(wanted=Wanted.PAUSE)
    turn.tell("stop", "stop: save, then end", actor=actor)
    stop_attempts(turn, save=True, actor=actor)
    _close_if_idle(turn, RunState.PAUSED, "stopped on request")
    return Done(
        run=run.id, note=f"{run.spec.name} saves and stops; go on with `runctl resume {run.spec.name}`"
    )


def cancel(turn: Turn, body: CancelRun, actor: str) -> Done:
    """End for good. A person needs force where training goes on, or where nobody knows that it does not."""
    run, attempt = turn.record.run, turn.record.current
    if run.state is RunState.CANCELLED:
        return Done(run=run.id, note=f"{run.spec.name} is cancelled already")
    if run.state is RunState.SUCCEEDED:
        raise RefusedByGuard(f"{run.spec.name} has succeeded: there is nothing to cancel.")
    if attempt is not None and attempt.permitted and not body.force:
        state = "may be training (its agent is not heard)" if attempt.unheard_since else "is training"
        raise RefusedByGuard(
            f"{run.spec.name} {state}; to cancel loses what is not saved.",
            f"Use `runctl stop {run.spec.name}` to save first, or `runctl cancel --yes {run.spec.name}`.",
        )
    turn.run(wanted=Wanted.CANCEL)
    turn.tell("cancel", "cancel: end for good", actor=actor)
    stop_attempts(turn, save=False, actor=actor)
    _close_if_idle(turn, RunState.CANCELLED, "cancelled by the user")
    return Done(run=run.id, note=f"{run.spec.name} is being cancelled; its checkpoints are kept")


def _close_if_idle(turn: Turn, state: RunState, why: str) -> None:
    """With no attempt left that must end first, the run is where the user wants it at once."""
    if turn.record.current is None and turn.record.run.state is not state:
        turn.do(CancelTimer(key="retry"))
        turn.run(state, why=why, ended_at=turn.at, retry_at=None)


def resume(turn: Turn, body: ResumeRun, actor: str) -> Done:
    """Go on from the newest verified checkpoint."""
    run = turn.record.run
    if run.state in (RunState.SUCCEEDED, RunState.CANCELLED):
        raise RefusedByGuard(f"{run.spec.name} is {run.state.value}.", _ENDED)
    if run.wanted is Wanted.TRAIN and run.state in OPEN_RUN:
        if body.max_seconds not in (None, run.spec.max_seconds):
            raise RefusedByGuard(
                f"{run.spec.name} is {run.state.value}: its time limit stays until it is resumed.",
                f"Stop it first: runctl stop {run.spec.name}.",
            )
        return Done(run=run.id, note=f"{run.spec.name} is {run.state.value} already")
    if run.state in OPEN_RUN:
        raise RefusedByGuard(
            f"{run.spec.name} is still ending.", "Wait until `runctl ls` says paused, then resume."
        )
    spec = _limited(turn, body, actor)
    turn.run(
        RunState.QUEUED,
        spec=spec,
        wanted=Wanted.TRAIN,
        why="",
        fruitless=0,
        stalls=0,
        restarts=0,
        ended_at=None,
    )
    turn.tell("resume", "resume", actor=actor)
    plan_attempt(turn, Cause.RESUMED)
    return Done(run=run.id, note=f"{run.spec.name} goes on from its newest verified checkpoint")


def _limited(turn: Turn, body: ResumeRun, actor: str) -> RunSpec:
    """What is asked for, with the limit that it goes on with. Raises RefusedByGuard when that is used up: a
    machine would be paid for, and end as soon as it could train."""
    spec = turn.record.run.spec
    if body.max_seconds is not None:
        spec = msgspec.structs.replace(spec, max_seconds=body.max_seconds)
        for error in check_spec(spec):
            raise error
    why = used_up(spec, seconds_used(turn.record.intervals, turn.at), turn.world.kill_margin)
    if why:
        mend = "Give it a greater one, in hours of training since its beginning"
        raise RefusedByGuard(f"{spec.name} {why}.", f"{mend}: runctl resume --max-hours HOURS {spec.name}.")
    if spec != turn.record.run.spec and spec.max_seconds is not None:
        turn.tell("limit", f"its time limit is {format_duration(spec.max_seconds)} now", actor=actor)
    return spec


def interrupt(turn: Turn, body: InterruptRun, actor: str) -> Done:
    """A drill: the provider takes the machine away, with notice, or says something else of the kind."""
    attempt = turn.record.current
    name = turn.record.run.spec.name
    if attempt is None or attempt.state not in (AttemptState.TRAINING, AttemptState.SAVING):
        raise RefusedByGuard(
            f"{name} is not training now ({turn.record.run.state.value}).",
            "Wait until it trains, then interrupt.",
        )
    turn.do(
        Interrupt(
            machine=attempt.agent, notice=body.notice, actor=actor, kind=body.kind, withdraw=body.withdraw
        )
    )
    what = _announced(body)
    text = f"a drill: the machine {what}"
    turn.tell(
        "drill",
        text,
        attempt=attempt.number,
        actor=actor,
        notice=body.notice,
        notice_kind=body.kind,
        withdraw=body.withdraw,
    )
    return Done(run=turn.record.run.id, note=f"the machine of {name} {what}")


def _announced(body: InterruptRun) -> str:
    if body.withdraw:
        return f"has its {body.kind} notice withdrawn"
    if body.kind == "rebalance":
        return "is told that it may be taken soon"
    if body.kind == "maintenance":
        return f"is told of maintenance in {body.notice:.0f} s"
    return f"is taken in {body.notice:.0f} s"


def check_removable(record: Record) -> None:
    """Raise RefusedByGuard unless nothing is left to do for the run: nobody watches what is forgotten."""
    name, state = record.run.spec.name, record.run.state
    if state in OPEN_RUN or any(a.open for a in record.attempts):
        raise RefusedByGuard(
            f"{name} is {state.value}: only a finished run can be forgotten.",
            f"Wait for its end, or cancel it: runctl cancel {name}.",
        )
    if not RUNS.is_final(state) and state is not RunState.FAILED:
        raise RefusedByGuard(
            f"{name} is {state.value}, so it could still go on: only a finished run can be forgotten.",
            f"Cancel it first: runctl cancel {name}.",
        )
    left = [m.id for m in record.machines if m.state is not MachineState.TERMINATED]
    if left:
        raise RefusedByGuard(
            f"The machine {left[0]} of {name} is not confirmed gone: it may still cost money.",
            f"Wait until it is: runctl explain {name}.",
        )


def remove(turn: Turn, body: RemoveRun, actor: str) -> Done:
    """Forget a finished run; what it cost stays in the sums."""
    check_removable(turn.record)
    run = turn.record.run
    if run.state is RunState.FAILED:
        turn.run(RunState.CANCELLED)  # for good: its secrets go, too
    turn.tell("removed", f"{run.spec.name} was forgotten", actor=actor)
    turn.do(RemoveRecord(actor=actor))
    kept = "its checkpoints are deleted" if body.checkpoints else f"its checkpoints stay in {run.spec.store}"
    return Done(run=run.id, note=f"{run.spec.name} is forgotten; {kept}")


_ACTS: dict[type[Body], Callable[..., Done]] = {
    SubmitRun: submit,
    StopRun: stop,
    CancelRun: cancel,
    ResumeRun: resume,
    InterruptRun: interrupt,
    RemoveRun: remove,
}


def act(turn: Turn, body: Body, actor: str) -> Done:
    """Carry out a request. Raises NotFound for what is no act, RefusedByGuard where a guard says no."""
    handler = _ACTS.get(type(body))
    if handler is None:
        raise NotFound(f"{type(body).__name__} is nothing that can be done to a run.")
    return handler(turn, body, actor)
