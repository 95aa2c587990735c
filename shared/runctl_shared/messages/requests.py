"""Requests: what clients (the command line, or anybody's automation) ask of the controller."""

from __future__ import annotations

from runctl_shared.messages.base import Body
from runctl_shared.messages.events import NoticeKind
from runctl_shared.messages.fields import Attempt, Count, Moment, Path, Seconds, Word
from runctl_shared.spec import RunSpec


class SubmitRun(Body, frozen=True, kw_only=True):
    """Start a run. The client draws the run's id, so that asking again is the same run."""

    spec: RunSpec


class ListRuns(Body, frozen=True, kw_only=True):
    """Runs, newest first. `all`: finished ones too."""

    all: bool = True
    limit: Count = 100
    project: Word | None = None


class ShowRun(Body, frozen=True, kw_only=True):
    """One run with its attempts, machines, checkpoints and story. `run`: id or name."""

    run: Word
    story: Count = 200


class StopRun(Body, frozen=True, kw_only=True):
    """Save, then end; the run is paused and can be resumed."""

    run: Word


class CancelRun(Body, frozen=True, kw_only=True):
    """End the run for good; what is complete is still stored. Refused while it trains, or may be training,
    unless `force` is set."""

    run: Word
    force: bool = False


class ResumeRun(Body, frozen=True, kw_only=True):
    """Go on with a run that is paused, stuck or failed. `max_seconds`: with this time limit from now on,
    which counts all of its training since its beginning."""

    run: Word
    max_seconds: Seconds | None = None


class RemoveRun(Body, frozen=True, kw_only=True):
    """Forget a run that has finished: what it cost stays in the sums. Refused while it is not finished or a
    machine of it is not known to be gone. `checkpoints`: delete, before that, what it keeps in its checkpoint
    store; else all of that stays, and the run can be imported from there."""

    run: Word
    checkpoints: bool = False


class ImportRuns(Body, frozen=True, kw_only=True):
    """Bring runs back out of the checkpoint store at `url`, in order of their ids: the first `limit` beyond
    id `after`. One that is on record is left alone. One that another installation has not finished is left to
    it, unless `take_over` says that its controller is gone for good: then machines of it that still live are
    adopted. Where the store itself shows that it was looked after a short while ago, it is left all the same,
    unless `force` is set."""

    url: Path
    after: Word = ""
    limit: Count = 50
    take_over: bool = False
    force: bool = False


class InterruptRun(Body, frozen=True, kw_only=True):
    """A drill: have the machine taken away after `notice` seconds, with the provider's notice to it.

    Of another `kind` it is only announced, and the machine stays. `withdraw`: the notice of that kind is
    taken back, as providers now and then do.
    """

    run: Word
    notice: Seconds = 120.0
    kind: NoticeKind = "interruption"
    withdraw: bool = False


class ListCheckpoints(Body, frozen=True, kw_only=True):
    """The committed checkpoints of a run, newest first."""

    run: Word


class ReadLog(Body, frozen=True, kw_only=True):
    """A piece of an attempt's output as it lies in the checkpoint store. `attempt` 0: the newest."""

    run: Word
    attempt: Attempt = 0
    offset: Count = 0
    limit: Count = 262_144


class ReadSeries(Body, frozen=True, kw_only=True):
    """The losses that a run has reported, as they lie in the checkpoint store. `attempt` 0: of all. Of more
    than `limit` points, so many are chosen evenly."""

    run: Word
    attempt: Attempt = 0
    limit: Count = 1000


class FollowRun(Body, frozen=True, kw_only=True):
    """Have a run's output and progress on the feed for `seconds` from now; repeat to go on. `offset`: from
    that byte of the present attempt's output on; None: from where it is. Without `output`: progress alone."""

    run: Word
    seconds: Seconds = 15.0
    offset: Count | None = None
    output: bool = True


class ListEvents(Body, frozen=True, kw_only=True):
    """What happened, to one run (`run`: id or name) or to all. With `after`: the oldest `limit` events beyond
    that number. Else the newest `limit`, before number `before` if that is given, back to `since`."""

    run: Word | None = None
    after: Count | None = None
    before: Count | None = None
    since: Moment = 0.0
    limit: Count = 200


class ControllerStatus(Body, frozen=True, kw_only=True):
    """How the controller is."""


class StopController(Body, frozen=True, kw_only=True):
    """End the controller's process. Training goes on. Refused when `force` is not set and a run would be
    left without anybody to resume it."""

    force: bool = False


REQUESTS: tuple[type[Body], ...] = (
    SubmitRun, ListRuns, ShowRun, StopRun, CancelRun, ResumeRun, RemoveRun, ImportRuns, InterruptRun,
    ListCheckpoints, ReadLog, ReadSeries, FollowRun, ListEvents, ControllerStatus, StopController,
)  # fmt: skip
