"""Replies to requests, and what is published on the feed."""

from __future__ import annotations

import msgspec

from runctl_shared.messages.base import Body
from runctl_shared.messages.events import Gpu
from runctl_shared.messages.fields import Attempt, Bytes, Count, Moment, Path, Seconds, Sentence, Step, Word
from runctl_shared.spec import RunSpec


class Failed(Body, frozen=True, kw_only=True):
    """The request was not carried out. `code`: usage, not_found, refused, provider, no_controller, store,
    error; `what` and `mend` are sentences."""

    code: Word
    what: Sentence
    mend: Sentence = ""


class Done(Body, frozen=True, kw_only=True):
    """The request is on record and will be carried out. `note`: what happens next, in a sentence."""

    run: Word = ""
    note: Sentence = ""


class RunView(Body, frozen=True, kw_only=True):
    """A run in one line. `at_risk_seconds`, `step`, `loss`, `stalled_seconds` (how long its training has
    shown nothing, once that is called a stall) and `gpus`: from the newest heartbeat. `dollars`: so far.
    `since`: when it came into its state. `wanted`: train, pause or cancel. `restarts`: after the training's
    own errors so far; `fruitless`: attempts in a row without progress; `retry_at`: when the next is due.
    `eta`: how long the steps that are left will take at the rate of about the last minute."""

    run: Word
    name: Word
    project: Word
    state: Word
    why: Sentence = ""
    attempt: Attempt = 0
    phase: Word = ""
    step: Step | None = None
    total_steps: Step | None = None
    steps_per_second: float | None = None
    eta: Seconds | None = None
    epoch: float | None = None
    loss: float | None = None
    saved_step: Step | None = None
    at_risk_seconds: Seconds = 0.0
    unheard: bool = False
    dollars: float = 0.0
    created_at: Moment = 0.0
    ended_at: Moment | None = None
    exit_code: int | None = None
    since: Moment | None = None
    wanted: Word = ""
    restarts: Count = 0
    fruitless: Count = 0
    retry_at: Moment | None = None
    stalled_seconds: Seconds = 0.0
    gpus: tuple[Gpu, ...] = ()


class RunList(Body, frozen=True, kw_only=True):
    """`forgotten`: runs that were removed from the record, `forgotten_dollars`: what they have cost."""

    runs: tuple[RunView, ...]
    forgotten: Count = 0
    forgotten_dollars: float = 0.0


class AttemptView(Body, frozen=True, kw_only=True):
    """`cause`: why it was planned (submitted, resumed, notice, ended). `since`: when it came into its state.
    `permitted`: it may train; `stop_sent`: it was asked to end, `stop_saves`: saving first. `noticed_at`:
    when the notice that stands came, `deadline_at`: when the machine goes. `end_reads`: how often its final
    record was looked for in vain, as `store_error` says why. `commits`: checkpoints that it has stored."""

    attempt: Attempt
    state: Word
    reason: Word | None = None
    detail: Sentence = ""
    exit_code: int | None = None
    signal: Word | None = None
    unheard: bool = False
    started_at: Moment | None = None
    ended_at: Moment | None = None
    resumed_from: Path | None = None
    restored_step: Step | None = None
    first_step: Step | None = None
    last_step: Step | None = None
    saved_step: Step | None = None
    lost_seconds: Seconds | None = None
    lost_steps: Count | None = None
    cause: Word = ""
    created_at: Moment | None = None
    since: Moment | None = None
    permitted: bool = False
    stop_sent: bool = False
    stop_saves: bool = True
    unheard_since: Moment | None = None
    noticed_at: Moment | None = None
    deadline_at: Moment | None = None
    end_reads: Count = 0
    store_error: Sentence = ""
    commits: Count = 0


class MachineView(Body, frozen=True, kw_only=True):
    """`since`: when it came into its state. `asks`: how often its launch or its end was asked for;
    `looked_at`: when the provider was last asked how it is; `trouble`: why it could not be asked.
    `absent_since`: the provider has not listed it since."""

    machine: Word
    attempt: Attempt
    provider: Word
    provider_id: Word = ""
    state: Word
    cause: Word | None = None
    launched_at: Moment | None = None
    ended_at: Moment | None = None
    since: Moment | None = None
    asks: Count = 0
    looked_at: Moment | None = None
    absent_since: Moment | None = None
    trouble: Sentence = ""


class IntervalView(Body, frozen=True, kw_only=True):
    """A priced interval of the ledger. `use`: boot, staging, waiting, training, saving, lost or idle."""

    machine: Word
    attempt: Attempt
    use: Word
    start: Moment
    end: Moment | None
    price: float


class StoryView(Body, frozen=True, kw_only=True):
    """Something that happened. `actor`: who did it (a user, the lifecycle, an agent, the provider). `number`
    counts what happened to all runs, in order (0: not told here)."""

    at: Moment
    attempt: Attempt
    kind: Word
    text: Sentence
    actor: Word
    data: dict[str, object] = msgspec.field(default_factory=dict)
    number: Count = 0


class RunDetail(Body, frozen=True, kw_only=True):
    run: RunView
    spec: RunSpec
    attempts: tuple[AttemptView, ...]
    machines: tuple[MachineView, ...]
    ledger: tuple[IntervalView, ...]
    story: tuple[StoryView, ...]


class EventView(Body, frozen=True, kw_only=True):
    """Something that happened to a run."""

    run: Word
    name: Word
    story: StoryView


class EventList(Body, frozen=True, kw_only=True):
    """Events, oldest first. `run`: the id of the run that was asked for. `through`: nothing that was asked
    for with a number up to this one is missing beyond the last event. `more`: there are more of them."""

    events: tuple[EventView, ...]
    run: Word = ""
    through: Count = 0
    more: bool = False


class ImportView(Body, frozen=True, kw_only=True):
    """What became of a run that lies in a store. `outcome`: imported, adopted (it goes on), known (it was on
    record), held (its own controller may still look after it), damaged. `note`: more, in a sentence."""

    run: Word
    name: Word = ""
    outcome: Word
    note: Sentence = ""


class ImportList(Body, frozen=True, kw_only=True):
    """`through`: go on with ImportRuns beyond this id, if there are `more`."""

    runs: tuple[ImportView, ...]
    through: Word = ""
    more: bool = False


class CheckpointView(Body, frozen=True, kw_only=True):
    """A committed checkpoint. `eligible`: of the newest claim's lineage, so that it may be restored."""

    manifest: Path
    attempt: Attempt
    step: Step | None
    epoch: float | None = None
    size: Bytes
    files: Count
    format: Word
    trigger: Word
    committed_at: Moment
    eligible: bool
    where: Path = ""


class CheckpointList(Body, frozen=True, kw_only=True):
    checkpoints: tuple[CheckpointView, ...]
    store: Path


class LogPiece(Body, frozen=True, kw_only=True):
    """`data` begins at `offset` of the attempt's output; `size`: what is stored of it by now. `attempts`: all
    that have output."""

    attempt: Attempt
    offset: Bytes
    data: bytes
    size: Bytes
    attempts: tuple[Attempt, ...] = ()


class LossPoint(Body, frozen=True, kw_only=True):
    """A loss that the training reported. It may be NaN or infinite."""

    attempt: Attempt
    step: Step | None
    time: Moment
    epoch: float | None = None
    loss: float


class Series(Body, frozen=True, kw_only=True):
    """How the loss went, oldest first. `stored`: how many points there are of those asked for."""

    points: tuple[LossPoint, ...]
    stored: Count


class Status(Body, frozen=True, kw_only=True):
    """The controller that leads: its process, its store and bus, and whether anything is left to do. `epoch`:
    which leadership it is, counted from 1; `standbys`: processes that wait to take over, as far as known;
    `takeover`: seconds of silence after which they do."""

    pid: Count
    version: Word
    installation: Word
    started_at: Moment
    embedded: bool
    unfinished: Count
    machines: Count
    bus: Word
    state_dir: Path
    epoch: Count = 0
    leads_since: Moment = 0.0
    standbys: tuple[Count, ...] = ()
    takeover: Seconds = 0.0


class RunChanged(Body, frozen=True, kw_only=True):
    """On the feed: something happened to a run."""

    story: StoryView
    view: RunView


class OutputRelayed(Body, frozen=True, kw_only=True):
    """On the feed: a piece of a run's output, in order of `offset`; a gap means that pieces were dropped."""

    attempt: Attempt
    offset: Bytes
    data: bytes


class ProgressSeen(Body, frozen=True, kw_only=True):
    """On the feed: a heartbeat of a run that somebody follows."""

    view: RunView


REPLIES: tuple[type[Body], ...] = (
    Failed, Done, RunList, RunDetail, EventList, ImportList, CheckpointList, LogPiece, Series, Status,
)  # fmt: skip
FEED: tuple[type[Body], ...] = (RunChanged, OutputRelayed, ProgressSeen)
