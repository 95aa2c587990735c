"""Following a run: everything that happens to it and everything that it prints, each thing once.

The feed may drop messages. Whatever it does not bring is asked for: the story and the state from the
controller, the output from the agent again, or from the checkpoint store. Output is always in order; what
happened to the run is, unless the feed dropped some of it.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from runctl_controller.client.client import Client
from runctl_controller.client.output import OutputStream
from runctl_shared.clock import Clock
from runctl_shared.errors import NoController, RunctlError
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Message
from runctl_shared.messages.replies import (
    Done,
    LogPiece,
    OutputRelayed,
    ProgressSeen,
    RunChanged,
    RunDetail,
    RunView,
    StoryView,
)
from runctl_shared.messages.requests import FollowRun, ReadLog, ShowRun

FINAL = frozenset({"succeeded", "failed", "cancelled", "paused", "stuck"})
"""States in which a run stays until somebody does something about it."""
RENEW = 5.0
LASTS = 15.0
QUIET = 12.0
"""Seconds without a word from the feed after which the run is looked at."""
FILL = 1.0
"""Seconds between two tries to get what is missing of the output."""


class Printed(msgspec.Struct, frozen=True):
    """Output of the training. `missing`: bytes before it that could not be had."""

    attempt: int
    data: bytes
    missing: int = 0


class Happened(msgspec.Struct, frozen=True):
    story: StoryView


class Progressed(msgspec.Struct, frozen=True):
    view: RunView


class Troubled(msgspec.Struct, frozen=True):
    """Following is hindered, or no longer is; a sentence."""

    text: str


class Woken(msgspec.Struct, frozen=True):
    """`Follower.wake` was called."""


Event = Printed | Happened | Progressed | Troubled | Woken


class Follower:
    """Configuration: `run` (its id), and where in its output to begin. Dependencies: client, clock, and
    `ensure`, which starts an embedded controller that has vanished: True when it has done so; it raises to
    give up. Everything but `wake` is one thread's.
    """

    def __init__(
        self,
        client: Client,
        clock: Clock,
        run: str,
        ensure: Callable[[], bool],
        output: OutputStream | None = None,
    ) -> None:
        self._client, self._clock, self._run, self._ensure = client, clock, run, ensure
        self._output = output or OutputStream()
        self._inbox: queue.SimpleQueue[Body | None] = queue.SimpleQueue()
        self._events: deque[Event] = deque()
        self._told: set[tuple[float, int, str, str]] = set()
        self._trained: set[int] = set()
        self._ended: set[int] = set()
        self._view: RunView | None = None
        self._received = False
        self._renew_at = self._fill_at = self._heard_at = 0.0
        self._deaf = False
        self.detail: RunDetail | None = None
        """The run at its end; set when it is over, and everything has been told."""
        self._subscription = client.listen(self._heard)

    def wake(self) -> None:
        """Have `next` return a Woken soon. Safe in a signal handler."""
        self._inbox.put(None)

    def close(self) -> None:
        self._subscription.close()

    def next(self, wait: float) -> Event | None:
        """The next event; None when there was none within `wait` seconds, or the run is over (`detail`)."""
        if not self._events and self.detail is None:
            self._work(wait)
        return self._events.popleft() if self._events else None

    # -- the feed -----------------------------------------------------------------------------

    def _heard(self, message: Message[Any]) -> None:
        """On the bus's thread."""
        if message.envelope.run == self._run:
            self._inbox.put(message.body)

    def _work(self, wait: float) -> None:
        now = self._clock.monotonic()
        if self._view is None or now - self._heard_at > QUIET:
            self._heard_at = now
            self._look()
        elif now >= self._renew_at:
            self._renew(now)
        if self._events or self.detail is not None:
            return
        try:
            body = self._inbox.get(timeout=max(0.0, min(wait, self._renew_at - now)))
        except queue.Empty:
            return
        self._heard_at = self._clock.monotonic()
        self._take(body)

    def _take(self, body: Body | None) -> None:
        if body is None:
            self._events.append(Woken())
        elif isinstance(body, OutputRelayed):
            self._received = True
            self._print(self._output.take(body.attempt, body.offset, body.data))
            self._next_attempt(body.attempt)
            self._mind_gap()
        elif isinstance(body, ProgressSeen):
            self._seen(body.view)
        elif isinstance(body, RunChanged):
            self._happened(body.story)
            self._seen(body.view)

    def _seen(self, view: RunView) -> None:
        self._view = view
        self._events.append(Progressed(view))
        self._next_attempt(view.attempt)
        if view.state in FINAL:
            self._look()

    def _happened(self, story: StoryView) -> None:
        key = (story.at, story.attempt, story.kind, story.text)
        if key in self._told:
            return
        self._told.add(key)
        if story.kind == "ended":
            self._ended.add(story.attempt)
            if story.attempt == self._output.attempt:
                self._drain()
        elif story.kind == "training":
            self._trained.add(story.attempt)
            self._renew_at = 0.0  # only now is there anybody who could send its output
        if story.kind == "training" or story.kind == "attempt":
            self._next_attempt(story.attempt)
        self._events.append(Happened(story))

    # -- asking -------------------------------------------------------------------------------

    def _ask(self, body: Body, kind: type[Any]) -> Any:
        """The reply; None when no controller answers now."""
        if self._ensure():
            self._heard_at = self._renew_at = 0.0  # look what happened meanwhile, and have it sent again
        try:
            reply = self._client.ask(body, kind)
        except NoController:
            if not self._deaf:
                self._deaf = True
                self._events.append(Troubled("no controller answers; the training goes on, waiting for one"))
            return None
        if self._deaf:
            self._deaf = False
            self._events.append(Troubled("a controller answers again"))
        return reply

    def _look(self) -> None:
        """Ask how the run is: what the feed did not bring is told now, and its end is not missed."""
        detail: RunDetail | None = self._ask(ShowRun(run=self._run, story=1000), RunDetail)
        if detail is None:
            self._renew_at = self._clock.monotonic() + RENEW
            return
        self._trained.update(a.attempt for a in detail.attempts if a.started_at is not None)
        self._ended.update(a.attempt for a in detail.attempts if a.state == "ended")
        for story in detail.story:
            self._happened(story)
        self._view = detail.run
        self._events.append(Progressed(detail.run))
        for attempt in detail.attempts:
            self._next_attempt(attempt.attempt)
        if detail.run.state in FINAL:
            self._take_rest()
            self._drain()
            self.detail = detail

    def _renew(self, now: float) -> None:
        """Have output and progress sent for a while; from where we are, unless it comes by itself."""
        self._renew_at = now + RENEW
        view, output = self._view, self._output
        offset: int | None = None
        if view is not None and not self._received:
            offset = output.offset if view.attempt == output.attempt else 0
        self._received = False
        if self._ask(FollowRun(run=self._run, seconds=LASTS, offset=offset), Done) is None:
            self._heard_at = now - QUIET  # once one answers, look what happened meanwhile

    # -- output -------------------------------------------------------------------------------

    def _print(self, data: bytes, missing: int = 0) -> None:
        if data or missing:
            self._events.append(Printed(self._output.attempt, data, missing))

    def _mind_gap(self) -> None:
        """Something is missing: it may be in the store by now; else the agent is asked to send it again."""
        now = self._clock.monotonic()
        if not self._output.gap or now < self._fill_at:
            return
        self._fill_at = now + FILL
        self._read()
        if self._output.gap:
            self._received = False
            self._renew_at = 0.0

    def _read(self) -> None:
        """Everything of the present attempt from where we are on, as far as it is stored."""
        output = self._output
        while True:
            try:
                body = ReadLog(run=self._run, attempt=output.attempt, offset=output.offset)
                piece: LogPiece | None = self._ask(body, LogPiece)
            except NoController:
                raise
            except RunctlError as error:
                if output.attempt in self._trained:  # one that never did has printed nothing
                    self._events.append(Troubled(f"the stored output cannot be read: {error}"))
                return
            if piece is None or not piece.data:
                return
            self._print(output.take(piece.attempt, piece.offset, piece.data))

    def _drain(self) -> None:
        """The present attempt prints nothing any more: the rest of it, and what is lost for good."""
        self._read()
        while self._output.gap:
            missing, data = self._output.skip()
            self._print(data, missing)

    def _next_attempt(self, number: int) -> None:
        """Attempt `number` is there: on to it once everything before it has been shown."""
        while self._output.attempt < number and self._output.attempt in self._ended:
            self._drain()
            self._print(self._output.begin(self._output.attempt + 1))

    def _take_rest(self) -> None:
        """What lies in the inbox, output above all, came before the end."""
        while True:
            try:
                body = self._inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(body, OutputRelayed):
                self._print(self._output.take(body.attempt, body.offset, body.data))
            elif isinstance(body, RunChanged):
                self._happened(body.story)
