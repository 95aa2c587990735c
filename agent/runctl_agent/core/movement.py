"""When the training last showed anything, and what follows when it shows nothing for long.

Silence is not death: a validation or a compilation may print nothing for an hour. So a stall is told only
when no step, no output and no checkpoint came for longer than the limit *and* for several times the longest
silence that the training has come out of by itself; and one that works (or of which that is not known), or
that has not shown its first sign yet, is given several times as long. It is ended only if the user asked for
that, and like every other end: asked to save first.
"""

from __future__ import annotations

from runctl_agent.core import faults
from runctl_agent.core.effects import LookAround
from runctl_agent.core.model import State
from runctl_agent.core.phases import ALIVE
from runctl_agent.core.turn import Turn
from runctl_shared.messages.events import StallEnded

TIMES_BUSY = 3.0
"""A training that works is given so many times as long."""
LOOK_AGAIN = 60.0
"""Seconds after which an answer to LookAround that never came is asked for again, at the most."""


def limit(state: State) -> float:
    """How long the training may show nothing, in seconds, before anything is made of it."""
    rules = state.rules
    return rules.stall_notice if rules.stall_after is None else rules.stall_after


def patience(state: State) -> float:
    """The same, for this training as it is."""
    longer = TIMES_BUSY if state.busy or state.moved_at is None else 1.0
    return longer * max(limit(state), faults.TIMES_LONGEST * state.longest_silence)


def look_at(state: State) -> float | None:
    """When to look whether the training has stalled, or does without a GPU that was lost; None: never."""
    began = since(state)
    if state.phase not in ALIVE or state.cause is not None or began is None:
        return None
    times = [] if state.stalled_at is not None else [began + patience(state)]
    if (lost := faults.judge_at(state)) is not None:
        times.append(lost)
    if not times:
        return None
    again = -1.0 if state.looked_at is None else state.looked_at + min(LOOK_AGAIN, limit(state))
    return max(min(times), again)


def look(turn: Turn) -> None:
    """Ask the edges for what they have seen, if it is time."""
    at = look_at(turn.state)
    if at is not None and turn.at >= at:
        turn.change(looked_at=turn.at)
        turn.do(LookAround())


def moved(turn: Turn, at: float, silence: float | None = None) -> None:
    """The training showed something at `at`, after a silence of so many seconds (None: since what was last
    known; it is not that long where movements in between went unheard)."""
    state = turn.state
    began = since(state)
    if state.phase not in ALIVE or began is None or at <= began:
        return
    if silence is None:
        # What comes before the first sign (imports, a compilation) says nothing about what comes after it.
        silence = 0.0 if state.moved_at is None else at - began
    if state.stalled_at is not None:
        turn.report(StallEnded(seconds=at - began))
    turn.change(
        moved_at=at,
        longest_silence=max(state.longest_silence, min(silence, patience(state))),
        busy=False,
        stalled_at=None,
    )


def since(state: State) -> float | None:
    """Since when the training has shown nothing; None: it has not started."""
    return state.started_at if state.moved_at is None else state.moved_at
