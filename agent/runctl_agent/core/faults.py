"""Errors of the GPUs: told at once; what they mean for the attempt shows when the training ends, or hangs."""

from __future__ import annotations

from runctl_agent.core.inputs import HardwareFaultSeen
from runctl_agent.core.model import Fault, State
from runctl_agent.core.phases import RUNNING
from runctl_agent.core.turn import Turn
from runctl_shared.messages.events import GpuFaultSeen

MOST = 30
"""Errors that are told of one attempt: a broken GPU may report thousands."""
SAME = 60.0
"""Seconds within which the same error of the same GPU is one: it is heard from NVML and from the kernel."""
RECENT = 60.0
"""Seconds by which an end may follow its cause even if steps were seen in between: batches fetched ahead."""
GIVE_UP = 180.0
"""Seconds after the loss of a GPU at which a training that has made no step since is ended: the calls that
wait for that GPU may never return."""


def seen(turn: Turn, given: HardwareFaultSeen) -> None:
    state = turn.state
    if state.phase not in RUNNING or len(state.faults) >= MOST:
        return
    if any(
        f.device == given.device and f.code == given.code and given.at < f.at + SAME for f in state.faults
    ):
        return
    fault = Fault(
        at=given.at,
        device=given.device,
        code=given.code,
        blame=given.blame,
        meaning=given.meaning,
        gone=given.gone,
    )
    turn.change(faults=(*state.faults, fault))
    turn.report(GpuFaultSeen(device=given.device, code=given.code, blame=given.blame, meaning=given.meaning))


def explains(state: State, at: float) -> bool:
    """Whether what was seen at `at` may be why the training ended: no step came after it, or the end soon."""
    ended = state.ended_at if state.ended_at is not None else at
    return state.stepped_at is None or at >= min(state.stepped_at, ended - RECENT)


def blamed(state: State) -> Fault | None:
    """The fault of the hardware that ended the training, if one did: the first, for others follow from it."""
    found = [f for f in state.faults if f.blame == "hardware" and explains(state, f.at)]
    return found[0] if found else None


def judge_at(state: State) -> float | None:
    """When to judge whether the training does without a GPU that is gone."""
    lost = _lost(state)
    return None if lost is None else lost.at + GIVE_UP


def _lost(state: State) -> Fault | None:
    """A GPU that is gone, and that the training has not shown to need no more."""
    showed = state.moved_at if state.stepped_at is None else state.stepped_at
    gone = [f for f in state.faults if f.gone and (showed is None or showed <= f.at + RECENT)]
    return gone[0] if gone else None


def words(fault: Fault) -> str:
    number = "" if fault.code is None else f"Xid {fault.code}, "
    return f"GPU {fault.device}: {number}{fault.meaning}"
