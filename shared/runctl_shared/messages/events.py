"""Events: what agents tell the controller. Past tense."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from runctl_shared.messages.base import Body
from runctl_shared.messages.fields import (
    Bytes,
    Count,
    Counts,
    ExitCode,
    Moment,
    Path,
    Seconds,
    Sentence,
    Sentences,
    Step,
    Word,
    Words,
)

EndReason = Literal[
    "succeeded", "user_error", "out_of_memory", "interrupted", "lost", "hardware_fault", "no_capacity",
    "quota", "refused", "boot_failed", "stage_failed", "store_failed", "agent_failed", "stalled", "stopped",
    "over_budget", "time_limit", "replaced",
]  # fmt: skip
"""Why an attempt ended: exactly one of these. What happens next is one table in the controller."""

NoticeKind = Literal["interruption", "rebalance", "maintenance"]
Trigger = Literal["periodic", "notice", "stop", "final"]
"""Why a checkpoint was taken: by itself, because of a notice, at a stop, or after the training ended."""
SaveCause = Literal["notice", "stop", "time_limit", "lease", "request", "stalled", "hardware"]
Blame = Literal["hardware", "application", "unknown"]
"""Whose fault an error of a GPU is, by its vendor's catalogue."""


class Registered(Body, frozen=True, kw_only=True):
    """The agent is up. `capabilities` are the command kinds that it understands."""

    protocol: Count
    version: Word
    capabilities: Words
    hostname: Word = ""
    boot_id: Word = ""
    training: bool = False


class Staged(Body, frozen=True, kw_only=True):
    """Everything that can be done before the permission to train is done."""

    seconds: Seconds = 0.0


class Claimed(Body, frozen=True, kw_only=True):
    """The attempt holds the lineage in the checkpoint store, from `parent` on (None: the beginning)."""

    parent: Path | None


class CheckpointRestored(Body, frozen=True, kw_only=True):
    """A verified checkpoint lies on the machine's disk. `damaged`: newer ones that failed verification."""

    manifest: Path
    step: Step | None
    size: Bytes
    seconds: Seconds
    damaged: Sentences = ()


class TrainingStarted(Body, frozen=True, kw_only=True):
    """The command runs. `resumed_from`: the manifest it was given, None when it starts from the beginning."""

    pid: Count
    resumed_from: Path | None
    restored_step: Step | None


class FirstStepSeen(Body, frozen=True, kw_only=True):
    """The first step that the training reported in this attempt: the proof that it resumed, or did not."""

    step: Step
    restored_step: Step | None
    seconds: Seconds


class SaveAsked(Body, frozen=True, kw_only=True):
    """The training was asked to save: `signal` was sent to `pids`."""

    cause: SaveCause
    signal: Word
    pids: Counts
    seconds_after_cause: Seconds


class CheckpointCommitted(Body, frozen=True, kw_only=True):
    """A complete checkpoint is verified and stored: its manifest exists.

    `save_seconds`: from the request to save to the last write (None when none was asked for).
    """

    manifest: Path
    step: Step | None
    epoch: float | None
    size: Bytes
    files: Count
    format: Word
    trigger: Trigger
    upload_seconds: Seconds
    save_seconds: Seconds | None = None
    written_at: Moment


class CheckpointFailed(Body, frozen=True, kw_only=True):
    """A checkpoint could not be stored. The training goes on; the next one is tried."""

    root: Path
    reason: Sentence


class CheckpointIncomplete(Body, frozen=True, kw_only=True):
    """What lay in the checkpoint folder when the training had ended, was never complete, and is not stored.

    `save_seconds`: from the request to save to its last write (None when it was written before, or none was
    asked for).
    """

    root: Path
    reason: Sentence
    size: Bytes
    save_seconds: Seconds | None = None


class SharedFileSeen(Body, frozen=True, kw_only=True):
    """Several processes of the training had one file of a checkpoint open for writing at the same time.
    `writers`: they, in words. Looked for at a save that was asked for, after one that was not whole,
    and where a file is never left alone."""

    path: Path
    writers: Sentences


class NoticeReceived(Body, frozen=True, kw_only=True):
    """Word that the machine will be taken. `deadline`: seconds from now (None: no time was named)."""

    notice: Word
    kind: NoticeKind
    action: Word
    deadline: Seconds | None
    source: Word


class NoticeWithdrawn(Body, frozen=True, kw_only=True):
    """The provider no longer serves the notice."""

    notice: Word


class GpuFaultSeen(Body, frozen=True, kw_only=True):
    """The driver reported an error of a GPU. `device`: its PCI address, or its index where that is unknown.

    `code`: NVIDIA's Xid (None: what was seen is no Xid). `meaning`: the same in words. Only a fault of the
    hardware can end the attempt, and only once the training no longer goes on.
    """

    device: Word
    code: Count | None
    blame: Blame
    meaning: Sentence


class TrainingStalled(Body, frozen=True, kw_only=True):
    """Neither a step, nor output, nor a checkpoint for `seconds`. The training was looked at, not touched.

    `cpu`: cores that it used on average meanwhile; `gpu_percent`: of the busiest GPU now; `processes`: how
    its processes are, in words. `ends`: whether the attempt is ended because of this, as the user asked for.
    """

    seconds: Seconds
    last_step: Step | None
    cpu: float | None
    gpu_percent: float | None
    processes: Sentence = ""
    ends: bool = False


class StallEnded(Body, frozen=True, kw_only=True):
    """The training moves again, after `seconds`."""

    seconds: Seconds


class CommandNotSupported(Body, frozen=True, kw_only=True):
    """An unknown command came. Nothing was done."""

    command: Word
    kind: Word


class AttemptEnded(Body, frozen=True, kw_only=True):
    """The training is not running and will not run again in this attempt; everything that could be stored is.

    `exit_code` or `signal` are the training's own; `exit_seconds`: from the request to save to the training's
    end (None: none was made). `lost_seconds` and `lost_steps`: work since the newest
    verified checkpoint. `storing_seconds`: from the training's end to this, spent on storing what it left.
    `detail` says in a sentence what happened.
    """

    reason: EndReason
    exit_code: ExitCode | None = None
    signal: Word | None = None
    last_step: Step | None = None
    saved_step: Step | None = None
    lost_seconds: Seconds = 0.0
    lost_steps: Count | None = None
    storing_seconds: Seconds = 0.0
    exit_seconds: Seconds | None = None
    detail: Sentence = ""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU, as its driver describes it; what it does not tell is None. `busy_percent`: of the time in which
    anything ran on it. `ecc_errors`: uncorrected ones since the driver was loaded. `slowed_by`: why its
    clocks are held back (heat, power), empty when they are not."""

    index: Count
    device: Word = ""
    name: Word = ""
    busy_percent: float | None = None
    memory_used: Bytes | None = None
    memory_total: Bytes | None = None
    celsius: float | None = None
    watts: float | None = None
    ecc_errors: Count | None = None
    slowed_by: Word = ""


class Heartbeat(Body, frozen=True, kw_only=True):
    """How it goes. Only the newest matters; it bypasses the core unless it changes a state.

    `at_risk_seconds`: training done since the newest verified checkpoint. `last_sequence`: the newest event
    on record here, so that a gap is noticed. `lease_left`: seconds until the machine ends itself.
    `total_steps`: of the whole training, where its output tells. `steps_per_second`: over about the last
    minute.
    `stalled_seconds`: how long the training has shown nothing, once that is longer than usual; else 0.
    """

    phase: Word
    step: Step | None = None
    total_steps: Step | None = None
    steps_per_second: float | None = None
    epoch: float | None = None
    loss: float | None = None
    saved_step: Step | None = None
    at_risk_seconds: Seconds = 0.0
    cpu_percent: float | None = None
    memory_percent: float | None = None
    disk_free: Bytes | None = None
    training_rss: Bytes | None = None
    lease_left: Seconds = 0.0
    last_sequence: Count = 0
    gpus: Annotated[tuple[Gpu, ...], msgspec.Meta(max_length=64)] = ()
    stalled_seconds: Seconds = 0.0


class OutputSeen(Body, frozen=True, kw_only=True):
    """A piece of the training's own output, sent only while somebody follows it. `offset` in bytes."""

    offset: Bytes
    data: bytes


EVENTS: tuple[type[Body], ...] = (
    Registered, Staged, Claimed, CheckpointRestored, TrainingStarted, FirstStepSeen, SaveAsked,
    CheckpointCommitted, CheckpointFailed, NoticeReceived, NoticeWithdrawn, CommandNotSupported, AttemptEnded,
    GpuFaultSeen, TrainingStalled, StallEnded, CheckpointIncomplete, SharedFileSeen,
)  # fmt: skip
UNNUMBERED: tuple[type[Body], ...] = (Heartbeat, OutputSeen)
"""Sent beside the numbered events (sequence 0): may be lost."""
