"""What the agent knows of its attempt. Stored with every decision; a restarted agent goes on from it.

Times (`…_at`, `…_until`) are seconds of the machine's monotonic clock, which outlives the agent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from runctl_agent.core.phases import Phase
from runctl_shared.messages.events import AttemptEnded, Blame


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What does not change during the attempt; seconds. See RunSpec and Timing."""

    attempt: int
    signal: str
    grace: float
    lease: float
    kill_margin: float
    drain: float = 60.0
    flush: float = 600.0
    overdue: float = 180.0
    stall_after: float | None = None
    stall_notice: float = 1800.0


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """An error of a GPU, seen at `at`, and last at `again_at`. See inputs.HardwareFaultSeen."""

    at: float
    again_at: float
    device: str
    code: int | None
    blame: Blame
    meaning: str
    gone: bool


class MemoryTrace(msgspec.Struct, frozen=True, kw_only=True):
    """A trace of memory that ran out, found at `at`; `text` says in words what was found.

    `memory`: of a control group whose limit was reached; of the whole machine; of one or the other, the
    kernel having killed a process of which it is not known whose it was (weak); of a GPU; what a process may
    have; what processes share. The first three by the word of the kernel, the others by the training's own.
    """

    memory: Literal["limit", "machine", "somewhere", "gpu", "process", "shared"]
    text: str
    at: float


class State(msgspec.Struct, frozen=True, kw_only=True):
    """`cause`: why the attempt is to end (an item of SaveCause), since `cause_at`;
    `deadline_at`: when the provider takes the machine, by the notice `interruption`. `asked_at`: when the
    training was last asked to save; `signalled_at`: the same, as long as it may be ending because of that;
    `kill_at`: when it is killed. `own_cause`, `own_kill_at`: what `cause` and `kill_at` would be without the
    notice, which may be withdrawn. `done`: ids of commands that were carried out. `saved_at`: when the newest
    verified checkpoint was written, `saved_manifest` its name if this attempt stored it; `report`: the last
    word, once it is said.

    `moved_at`: when the training last showed anything (None: nothing yet), `stepped_at`: when a new step was
    last seen, `longest_silence`: the longest that it came out of. `looked_at`: when the edges were last asked
    for signs of life, `busy`: whether it worked then, `stalled_at`: since when it is told to have stalled.
    `back_at`: when a restarted agent took over, `unseen_from`: from when on nobody had looked.

    `overslept`: the lease ran out while the agent stood still, so it was given a little longer, once."""

    rules: Rules
    phase: Phase = Phase.STAGING
    lease_until: float
    hard_end_at: float
    overslept: bool = False
    permitted: bool = False
    parent: str | None = None
    restored: str | None = None
    restored_step: int | None = None
    resume_path: str | None = None
    pid: int | None = None
    started_at: float | None = None
    first_step: int | None = None
    last_step: int | None = None
    saved_step: int | None = None
    saved_at: float | None = None
    saved_manifest: str | None = None
    notices: tuple[str, ...] = ()
    interruption: str | None = None
    cause: str | None = None
    cause_at: float | None = None
    own_cause: str | None = None
    own_kill_at: float | None = None
    save_only: bool = False
    signalled_at: float | None = None
    deadline_at: float | None = None
    asked_at: float | None = None
    kill_at: float | None = None
    killed: bool = False
    ended_at: float | None = None
    exited: bool = False
    exit_code: int | None = None
    exit_signal: str | None = None
    exit_detail: str = ""
    flush_until: float | None = None
    report: AttemptEnded | None = None
    recorded: bool = False
    drained: bool = False
    over_at: float | None = None
    shut_down: bool = False
    done: tuple[str, ...] = ()
    moved_at: float | None = None
    stepped_at: float | None = None
    longest_silence: float = 0.0
    looked_at: float | None = None
    busy: bool = False
    stalled_at: float | None = None
    back_at: float | None = None
    unseen_from: float | None = None
    faults: tuple[Fault, ...] = ()
    traces: tuple[MemoryTrace, ...] = ()
