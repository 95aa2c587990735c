"""What follows from a look at a training that shows nothing: see movement."""

from __future__ import annotations

from runctl_agent.core import ending, faults, movement
from runctl_agent.core.inputs import LookedAround
from runctl_agent.core.phases import ALIVE
from runctl_agent.core.turn import Turn
from runctl_shared.messages.events import TrainingStalled

BUSY_CORES = 0.05
"""Of one processor core: below that, only timers and monitoring threads run."""
BUSY_GPU = 5.0
"""Per cent."""


def looked(turn: Turn, given: LookedAround) -> None:
    """What the edges have seen: it moved after all, or it works, or it has stalled."""
    if given.moved_at is not None:
        movement.moved(turn, min(given.moved_at, given.at), given.longest_silence)
    if movement.look_at(turn.state) is None:
        return
    _judge_loss(turn)
    state, since = turn.state, movement.since(turn.state)
    if state.cause is not None or state.stalled_at is not None or since is None:
        return
    if given.at < since + movement.patience(state):
        return
    if _works(given) and not state.busy and state.moved_at is not None:
        turn.change(busy=True)
    else:
        _stalled(turn, given, given.at - since)


def _works(given: LookedAround) -> bool:
    return given.cpu is None or given.cpu > BUSY_CORES or (given.gpu_percent or 0.0) > BUSY_GPU


def _judge_loss(turn: Turn) -> None:
    """A GPU is gone: a training that has not shown that it does without it is ended."""
    due = faults.judge_at(turn.state)
    if due is not None and turn.at >= due and turn.state.phase in ALIVE:
        ending.begin_end(turn, "hardware", turn.at + turn.rules.grace)


def _stalled(turn: Turn, given: LookedAround, seconds: float) -> None:
    ends = turn.rules.stall_after is not None
    turn.change(stalled_at=turn.at)
    turn.report(
        TrainingStalled(
            seconds=seconds,
            last_step=turn.state.last_step,
            cpu=given.cpu,
            gpu_percent=given.gpu_percent,
            processes=given.processes,
            ends=ends,
        )
    )
    if ends:
        ending.begin_end(turn, "stalled", turn.at + turn.rules.grace)
