"""What the controller knows of a run. Frozen: a decision makes new ones."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.providers.port import LaunchOrder
from runctl_shared.spec import RunSpec


class Wanted(StrEnum):
    """What the user wants of the run now."""

    TRAIN = "train"
    PAUSE = "pause"
    CANCEL = "cancel"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`newest`: number of the newest attempt. `restarts`: restarts after the training's own errors so far.
    `fruitless`: attempts in a row that ended without progress, `stalls`: that stalled where they had begun.
    `exit_code`: the training's last. `since`: when it came into its state (None: before this was kept).
    `retry_at`: when the next attempt is due, while one is waited for."""

    spec: RunSpec
    state: RunState = RunState.QUEUED
    wanted: Wanted = Wanted.TRAIN
    why: str = ""
    newest: int = 0
    restarts: int = 0
    fruitless: int = 0
    stalls: int = 0
    exit_code: int | None = None
    created_at: float = 0.0
    ended_at: float | None = None
    since: float | None = None
    retry_at: float | None = None

    @property
    def id(self) -> str:
        return self.spec.run


class Cause(StrEnum):
    """Why an attempt was planned."""

    SUBMITTED = "submitted"  # the run was asked for
    RESUMED = "resumed"  # the user wanted it to go on
    NOTICE = "notice"  # the machine of the one before is about to be taken
    ENDED = "ended"  # the one before had ended, and its reason calls for another


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try. `events_through`: every event of its agent up to this number is committed.

    `commands`: how many commands were sent to it (their ids derive from it). `unheard_since`: silence, which
    is not death. `notice`: the interruption notice that stands. `saved_at`: when the newest checkpoint was
    committed, `newest`: its manifest. `stop_sent`: it was asked to end, `stop_saves`: saving first.
    `capabilities`: kinds of commands that its agent understands; empty until it registered. `lag`: the least
    by which its events came later than its own clock says, `told_at`: when the last of them happened by ours.
    `end_reads`: how often its final record was looked for in vain. `cause`: why it was planned (None: before
    this was kept). `since`: when it came into its state. `noticed_at`: when the notice that stands came.
    `adopted`: its record was lost and found in the store, so events that were acknowledged before may be
    missing for ever. `gap_at`: number of the first event that came beyond such a gap.
    """

    number: int
    agent: str
    state: AttemptState = AttemptState.LAUNCHING
    reason: str | None = None
    detail: str = ""
    exit_code: int | None = None
    signal: str | None = None
    permitted: bool = False
    stop_sent: bool = False
    stop_saves: bool = True
    capabilities: tuple[str, ...] = ()
    unheard_since: float | None = None
    events_through: int = 0
    commands: int = 0
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    notice: str | None = None
    deadline_at: float | None = None
    resumed_from: str | None = None
    restored_step: int | None = None
    first_step: int | None = None
    last_step: int | None = None
    saved_step: int | None = None
    saved_at: float | None = None
    newest: str | None = None
    commits: int = 0
    lag: float | None = None
    told_at: float = 0.0
    end_reads: int = 0
    store_error: str = ""
    lost_seconds: float | None = None
    lost_steps: int | None = None
    cause: Cause | None = None
    since: float | None = None
    noticed_at: float | None = None
    adopted: bool = False
    gap_at: int | None = None

    @property
    def open(self) -> bool:
        return self.state is not AttemptState.ENDED


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What was rented for an attempt. `asks`: how often its launch or its end was asked for; `absent_since`:
    since when at most the provider does not list it; `since`: when it came into its state; `looked_at`: when
    the provider was last asked how it is; `trouble`: why that, its launch or its end could not be asked."""

    id: str
    attempt: int
    order: LaunchOrder
    state: MachineState = MachineState.LAUNCHING
    provider_id: str = ""
    cause: str | None = None
    asks: int = 0
    looks: int = 0
    absent_since: float | None = None
    launched_at: float | None = None
    ended_at: float | None = None
    since: float | None = None
    looked_at: float | None = None
    trouble: str = ""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A priced interval: this machine, for this attempt, used like this, at `price` dollars per hour."""

    machine: str
    attempt: int
    use: str
    start: float
    end: float | None = None
    price: float = 0.0


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A run with everything that a decision about it may need: loaded, decided upon and stored as one."""

    run: Run
    attempts: tuple[Attempt, ...] = ()
    machines: tuple[Machine, ...] = ()
    intervals: tuple[Interval, ...] = ()

    def attempt(self, number: int) -> Attempt | None:
        return next((a for a in self.attempts if a.number == number), None)

    def by_agent(self, agent: str) -> Attempt | None:
        return next((a for a in self.attempts if a.agent == agent), None)

    def machine(self, name: str) -> Machine | None:
        return next((m for m in self.machines if m.id == name), None)

    @property
    def current(self) -> Attempt | None:
        """The oldest open attempt: the one that trains, or is the next to."""
        return next((a for a in self.attempts if a.open), None)

    @property
    def busy(self) -> bool:
        """Whether an attempt is open or a machine is not known to be gone."""
        return any(a.open for a in self.attempts) or any(
            m.state is not MachineState.TERMINATED for m in self.machines
        )
