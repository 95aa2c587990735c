"""What is due when. Timers are not kept: they follow from the state, so a restarted agent has them all."""

from __future__ import annotations

from runctl_agent.core import movement
from runctl_agent.core.model import State
from runctl_agent.core.phases import ALIVE, Phase


def hard_end_notice(state: State) -> float:
    """When to begin to end because of the hard end: early enough to save."""
    return state.hard_end_at - state.rules.grace - state.rules.kill_margin


def shut_down_at(state: State) -> float | None:
    """When to end the machine: once the last word is safe, or after a while if nobody takes it.

    An interrupted machine is left to its provider, within reason: by EC2's rules its first hour is then free.
    """
    if state.phase is not Phase.ENDED or state.shut_down or state.over_at is None:
        return None
    safe = state.recorded and state.drained
    at = state.over_at if safe else state.over_at + state.rules.drain
    interrupted = state.report is not None and state.report.reason == "interrupted"
    if interrupted and state.deadline_at is not None:
        at = max(at, state.deadline_at + state.rules.overdue)
    return at


def due(state: State) -> float | None:
    """The next moment at which a Tick would change something; None: never."""
    if state.phase is Phase.ENDED:
        return shut_down_at(state)
    if state.phase is Phase.FLUSHING:
        return state.flush_until
    times = []
    if state.cause is None:
        times += [state.lease_until, hard_end_notice(state)]
        look = movement.look_at(state)
        times += [] if look is None else [look]
    if state.kill_at is not None and not state.killed and state.phase in ALIVE:
        times.append(state.kill_at)
    return min(times, default=None)
