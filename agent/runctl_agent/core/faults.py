"""Errors of the GPUs: told at once; what they mean for the attempt shows when the training ends, or hangs."""

from __future__ import annotations

import msgspec

from runctl_agent.core.inputs import HardwareFaultSeen
from runctl_agent.core.model import Fault, State
from runctl_agent.core.phases import RUNNING, Phase
from runctl_agent.core.turn import Turn
from runctl_shared.messages.events import GpuFaultSeen

MOST = 30
"""Errors that are told of one attempt: a broken GPU may report thousands."""
SAME = 60.0
"""Seconds within which the same error of the same GPU is one: it is heard from NVML and from the kernel."""
RECENT = 60.0
"""Seconds for which steps may be seen after what will end the training: of batches that were fetched ahead,
and because they are looked for at each heartbeat only."""
GIVE_UP = 180.0
"""Seconds after the loss of a GPU at which a training that has made no step since is ended, at the least: the
calls that wait for that GPU may never return."""
TIMES_LONGEST = 3.0
"""A silence means nothing before it is so many times the longest one that the training came out of."""


def seen(turn: Turn, given: HardwareFaultSeen) -> None:
    state = turn.state
    # What is read once the training has ended may still be why.
    if state.phase not in RUNNING | {Phase.FLUSHING} or len(state.faults) >= MOST:
        return
    for fault in state.faults:
        if (fault.device, fault.code) == (given.device, given.code) and given.at < fault.again_at + SAME:
            turn.change(faults=tuple(_again(f, given.at) if f is fault else f for f in state.faults))
            return
    fault = Fault(
        at=given.at,
        again_at=given.at,
        device=given.device,
        code=given.code,
        blame=given.blame,
        meaning=given.meaning,
        gone=given.gone,
    )
    turn.change(faults=(*state.faults, fault))
    turn.report(GpuFaultSeen(device=given.device, code=given.code, blame=given.blame, meaning=given.meaning))


def _again(fault: Fault, at: float) -> Fault:
    """It was seen again; noted now and then only, for it may be seen thousands of times."""
    return msgspec.structs.replace(fault, again_at=at) if at > fault.again_at + 5.0 else fault


def explains(state: State, at: float) -> bool:
    """Whether what was seen at `at` may be why the training ended: no steps came after it, or few. Of a
    training that names no steps, its checkpoints show that it went on."""
    since = state.saved_at if state.stepped_at is None else state.stepped_at
    if since is None:
        return True
    if state.back_at is not None and state.unseen_from is not None and since < state.back_at + RECENT:
        since = state.unseen_from  # what was seen on coming back may have happened at any time since then
    return at >= since - RECENT


def blamed(state: State) -> Fault | None:
    """The fault of the hardware that ended the training, if one did: the first, for others follow from it."""
    found = [f for f in state.faults if f.blame == "hardware" and explains(state, f.again_at)]
    return found[0] if found else None


def judge_at(state: State) -> float | None:
    """When to judge whether the training does without a GPU that is gone."""
    lost = _lost(state)
    return None if lost is None else lost.at + max(GIVE_UP, TIMES_LONGEST * state.longest_silence)


def _lost(state: State) -> Fault | None:
    """A GPU that is gone, and that the training has not shown to need no more."""
    showed = state.moved_at if state.stepped_at is None else state.stepped_at
    gone = [f for f in state.faults if f.gone and (showed is None or showed <= f.at + RECENT)]
    return gone[0] if gone else None


def words(fault: Fault) -> str:
    number = "" if fault.code is None else f"Xid {fault.code}, "
    return f"GPU {fault.device}: {number}{fault.meaning}"
