"""Driving a rehearsal: a client of the controller, like any other."""

from __future__ import annotations

import queue
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from runctl_controller.client.client import Client
from runctl_controller.rehearsal.evidence import successor
from runctl_controller.rehearsal.report import DAY, Report, judge
from runctl_shared.clock import Clock
from runctl_shared.messages.codec import Message
from runctl_shared.messages.replies import AttemptView, Done, ProgressSeen, RunChanged, RunDetail
from runctl_shared.messages.requests import CancelRun, FollowRun, InterruptRun, ShowRun, SubmitRun
from runctl_shared.spec import RunSpec

FINAL = ("succeeded", "failed", "cancelled", "paused", "stuck")
LOOK = 5.0
"""Seconds between two looks at the run when the feed says nothing: it is never the only way to learn."""
STEP_PATIENCE = 120.0
"""Seconds that a resumed training may take to report a step before that counts as none."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`after`: seconds of training, or `at_step`: steps of the attempt, before each of `times` interruptions,
    each with a notice of `notice` seconds. `finish`: let the training go on to its end afterwards. `mtbf`:
    seconds between two interruptions in earnest."""

    notice: float = 120.0
    after: float = 20.0
    at_step: int | None = None
    times: int = 1
    finish: bool = False
    mtbf: float = DAY


class Drill:
    """`say` is told, in a sentence each, what happens."""

    def __init__(
        self, client: Client, spec: RunSpec, plan: Plan, clock: Clock, say: Callable[[str], None]
    ) -> None:
        self._client, self._spec, self._plan, self._clock, self._say = client, spec, plan, clock, say
        self._news: queue.SimpleQueue[Message[Any]] = queue.SimpleQueue()
        self._training_since: dict[int, float] = {}
        self._step: int | None = None
        self._followed = 0.0

    def run(self) -> Report:
        """Rehearse; the report. Raises what the controller refuses with. Its run is ended in any case."""
        subscription = self._client.listen(self._heard)
        try:
            self._client.ask(SubmitRun(spec=self._spec), Done)
            try:
                self._interruptions()
                if self._plan.finish:
                    self._until(lambda detail: None)
            finally:
                self._clear_away()
            return judge(self._show(), self._plan.times, self._plan.mtbf)
        finally:
            subscription.close()

    def _interruptions(self) -> None:
        for _ in range(self._plan.times):
            attempt = self._until(self._due)
            if attempt is None:
                return
            self._client.ask(InterruptRun(run=self._spec.run, notice=self._plan.notice), Done)
            if self._until(partial(self._resumed, interrupted=attempt.attempt)) is None:
                return

    def _clear_away(self) -> None:
        """End the run if it has not ended, and wait until no machine of it is left."""
        if self._show().run.state not in FINAL:
            self._client.ask(CancelRun(run=self._spec.run, force=True), Done)
        self._until(_all_gone, past_the_end=True)

    # -- waiting ------------------------------------------------------------------------------

    def _until(self, wanted: Callable[[RunDetail], Any], past_the_end: bool = False) -> Any:
        """The first true answer of `wanted`; None when the run ended before."""
        while True:
            detail = self._show()
            found = wanted(detail)
            if found is not None:
                return found
            if detail.run.state in FINAL and not past_the_end:
                return None
            self._wait(self._time_left())

    def _time_left(self) -> float:
        since = max(self._training_since.values(), default=None)
        if since is None or self._plan.at_step is not None:
            return LOOK
        left = since + self._plan.after - self._clock.monotonic()
        return min(LOOK, left) if left > 0 else LOOK

    def _wait(self, seconds: float) -> None:
        """Until there is news, or so long."""
        now = self._clock.monotonic()
        if now - self._followed > 10.0:
            self._followed = now
            self._client.ask(FollowRun(run=self._spec.run, seconds=20.0), Done)
        try:
            self._take(self._news.get(timeout=seconds))
            while True:
                self._take(self._news.get_nowait())
        except queue.Empty:
            pass

    def _heard(self, message: Message[Any]) -> None:
        if message.envelope.run == self._spec.run:
            self._news.put(message)

    def _take(self, message: Message[Any]) -> None:
        body = message.body
        if isinstance(body, RunChanged):
            if body.story.kind == "training":
                self._training_since[body.story.attempt] = self._clock.monotonic()
            if body.story.kind in _WORTH_SAYING:
                self._say(body.story.text)
        elif isinstance(body, ProgressSeen):
            self._step = body.view.step

    # -- what is waited for -------------------------------------------------------------------

    def _due(self, detail: RunDetail) -> AttemptView | None:
        """The attempt that is to be interrupted now."""
        attempt = next((a for a in detail.attempts if a.state == "training"), None)
        if attempt is None:
            return None
        since = self._training_since.setdefault(attempt.attempt, self._clock.monotonic())
        if self._plan.at_step is None:
            return attempt if self._clock.monotonic() - since >= self._plan.after else None
        steps = (detail.run.step or 0) - (attempt.restored_step or 0)
        return attempt if steps >= self._plan.at_step else None

    def _resumed(self, detail: RunDetail, interrupted: int) -> AttemptView | None:
        """The successor, once it has reported a step, or has had the time to."""
        after = successor(detail, interrupted)
        if after is None or after.started_at is None:
            return None
        since = self._training_since.setdefault(after.attempt, self._clock.monotonic())
        waited = self._clock.monotonic() - since > STEP_PATIENCE
        return after if after.first_step is not None or after.state == "ended" or waited else None

    def _show(self) -> RunDetail:
        return self._client.ask(ShowRun(run=self._spec.run, story=2000), RunDetail)


def _all_gone(detail: RunDetail) -> bool | None:
    gone = detail.run.state in FINAL and all(m.state == "terminated" for m in detail.machines)
    return gone or None


_WORTH_SAYING = {
    "training", "drill", "notice", "save", "checkpoint", "restored", "first_step", "not_resumed", "ended",
    "damaged", "checkpoint_failed", "drill_failed", "machine", "incomplete", "shared_file",
}  # fmt: skip
