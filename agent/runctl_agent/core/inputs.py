"""What the agent's core is told. `at`: seconds of the machine's monotonic clock."""

from __future__ import annotations

from typing import Literal

import msgspec

from runctl_agent.core.model import MemoryTrace
from runctl_shared.messages.base import Body
from runctl_shared.messages.events import Blame


class Input(msgspec.Struct, frozen=True, kw_only=True):
    at: float


class Booted(Input, frozen=True, kw_only=True):
    """The agent's process started: for the first time (`again` false), or once more after it died.

    `trainer`: what was found of the training on the machine: alive, exited (with `exit_code`/`signal`), or
    none (it never started).
    """

    hello: Body
    again: bool = False
    trainer: Literal["none", "alive", "exited"] = "none"
    pid: int | None = None
    exit_code: int | None = None
    signal: str | None = None


class CommandArrived(Input, frozen=True, kw_only=True):
    id: str
    attempt: int
    kind: str
    body: Body


class Staged(Input, frozen=True, kw_only=True):
    seconds: float


class StagingFailed(Input, frozen=True, kw_only=True):
    detail: str


class Claimed(Input, frozen=True, kw_only=True):
    parent: str | None


class ClaimFailed(Input, frozen=True, kw_only=True):
    """`superseded`: another agent or a newer attempt holds the lineage, so this one must not train."""

    superseded: bool
    detail: str


class Restored(Input, frozen=True, kw_only=True):
    """`manifest` None: there was nothing to restore. `path`: what the training is given."""

    manifest: str | None
    path: str | None = None
    step: int | None = None
    size: int = 0
    seconds: float = 0.0
    damaged: tuple[str, ...] = ()


class RestoreFailed(Input, frozen=True, kw_only=True):
    """The store could not be asked, or nothing that was to be there could be verified."""

    detail: str


class TrainingUp(Input, frozen=True, kw_only=True):
    pid: int


class TrainingCannotStart(Input, frozen=True, kw_only=True):
    exit_code: int
    detail: str


class TrainingExited(Input, frozen=True, kw_only=True):
    """The main process is gone and so is everything it left. Both None: nobody knows how. `traces`: of memory
    that ran out."""

    exit_code: int | None
    signal: str | None
    detail: str = ""
    traces: tuple[MemoryTrace, ...] = ()


class HardwareFaultSeen(Input, frozen=True, kw_only=True):
    """The driver reported an error of a GPU. `device`: its PCI address, or its index; `code`: the Xid, if it
    is one; `gone`: nothing runs on that GPU any more."""

    device: str
    code: int | None
    blame: Blame
    meaning: str
    gone: bool = False


class LookedAround(Input, frozen=True, kw_only=True):
    """The answer to LookAround. None: unknown.

    `moved_at`: when the training last printed or wrote anything, as far as that was seen; `longest_silence`:
    between two things that it printed. `cpu`: cores that its processes have used on average since;
    `gpu_percent`: of the busiest GPU now. `processes`: how they are, in words.
    """

    moved_at: float | None
    longest_silence: float = 0.0
    cpu: float | None
    gpu_percent: float | None = None
    processes: str = ""


class Moved(Input, frozen=True, kw_only=True):
    """The training printed or wrote something. Told while it is said to have stalled."""


class StepSeen(Input, frozen=True, kw_only=True):
    """Sampled: the first step of the attempt always, later ones at most about once a second."""

    step: int


class SignalSent(Input, frozen=True, kw_only=True):
    signal: str
    pids: tuple[int, ...]


class Stored(Input, frozen=True, kw_only=True):
    """A checkpoint is committed. `written_at`: of its newest file, on this clock; `wall` the same in UTC."""

    manifest: str
    step: int | None
    epoch: float | None
    size: int
    files: int
    format: str
    written_at: float
    wall: float
    upload_seconds: float


class NotStored(Input, frozen=True, kw_only=True):
    root: str
    reason: str


class NeverComplete(Input, frozen=True, kw_only=True):
    """The training has ended, and this was not complete. `written_at`: of its newest file, on this clock."""

    root: str
    reason: str
    size: int
    written_at: float


class RivalsSeen(Input, frozen=True, kw_only=True):
    """Several processes of the training, `writers` in words, had one file open for writing at once."""

    path: str
    writers: tuple[str, ...]


class Flushed(Input, frozen=True, kw_only=True):
    """Everything complete on the disk is committed, or is known not to be going to be."""


class NoticeSeen(Input, frozen=True, kw_only=True):
    id: str
    kind: Literal["interruption", "rebalance", "maintenance"]
    action: str
    deadline: float | None
    source: str


class NoticeGone(Input, frozen=True, kw_only=True):
    id: str


class EndRecorded(Input, frozen=True, kw_only=True):
    """The final record lies in the checkpoint store."""


class Drained(Input, frozen=True, kw_only=True):
    """The controller has acknowledged every event."""


class Tick(Input, frozen=True, kw_only=True):
    """Time passed: something may be due (see `timers.due`). `slept`: seconds just before in which this agent
    stood still, and heard nobody."""

    slept: float = 0.0
