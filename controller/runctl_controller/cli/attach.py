"""Being attached to a run: showing what it does as it does it, until it ends or is left alone."""

from __future__ import annotations

import contextlib
import signal
import sys
from enum import Enum

from runctl_controller.cli.exits import exit_code
from runctl_controller.cli.phases import Teller, end_line, how_to_go_on, status_line
from runctl_controller.cli.screen import Screen
from runctl_controller.cli.signals import Noted, raising
from runctl_controller.client.client import Client
from runctl_controller.client.follow import Event, Follower, Happened, Printed, Progressed, Troubled
from runctl_shared.clock import Clock
from runctl_shared.errors import RefusedByGuard
from runctl_shared.messages.replies import Done, RunDetail, RunView
from runctl_shared.messages.requests import StopRun
from runctl_shared.units import format_bytes

TICK = 1.0
"""Seconds between two looks at the clock, for the status line."""
REFRESH = 0.25
"""Seconds that a status line stays at least: a fast training must not make it flicker."""
HANGUP = 128 + signal.SIGHUP


class Wish(Enum):
    STOP = "s"
    DETACH = "d"
    CONTINUE = "c"


class Attached:
    """`name` is the run's. Everything that comes is shown before `watch` returns."""

    def __init__(self, client: Client, follower: Follower, screen: Screen, clock: Clock, name: str) -> None:
        self._client, self._follower, self._screen, self._clock = client, follower, screen, clock
        self._name = name
        self._teller = Teller()
        self._view: RunView | None = None
        self._viewed_at = self._refreshed_at = 0.0
        self._interrupted = 0
        self._told = ""

    def watch(self, signals: Noted) -> int:
        """Until the run ends, or the user leaves it. What `runctl run` exits with."""
        follower = self._follower
        while True:
            number = signals.take()
            if number is not None:
                left = self._signalled(number)
                if left is not None:
                    return left
            event = follower.next(TICK)
            if event is not None:
                self._show(event)
            elif follower.detail is not None:
                return self._ended(follower.detail)
            self._refresh()

    def _show(self, event: Event) -> None:
        if isinstance(event, Printed):
            if event.missing:
                self._screen.say(f"{format_bytes(event.missing)} of the output are lost here")
            self._screen.output(event.data)
        elif isinstance(event, Progressed):
            self._view, self._viewed_at = event.view, self._clock.monotonic()
        elif isinstance(event, Happened):
            line = self._teller.line(event.story)
            if line is not None:
                self._told = line
                self._screen.say(line)
        elif isinstance(event, Troubled):
            self._screen.say(event.text)

    def _refresh(self) -> None:
        now = self._clock.monotonic()
        if self._view is not None and now - self._refreshed_at >= REFRESH:
            self._refreshed_at = now
            self._screen.status(status_line(self._view, now - self._viewed_at))

    def _ended(self, detail: RunDetail) -> int:
        self._screen.status("")
        self._screen.say(end_line(detail, told=self._told))
        more = how_to_go_on(detail.run)
        if more is not None:
            self._screen.say(more)
        self._screen.close()
        return exit_code(detail)

    # -- signals ------------------------------------------------------------------------------

    def _signalled(self, number: int) -> int | None:
        """Act on a signal; what to exit with if that is the end of it.

        A lost terminal detaches: nobody asked for an end. Asked to end, we ask the user; where there is
        nobody to ask, the run saves and stops, so that nothing is lost and nothing goes on unattended.
        """
        if number == signal.SIGHUP:
            return HANGUP
        self._interrupted += 1
        if self._interrupted > 1:
            return self._detach()
        wish = self._ask() if number == signal.SIGINT and _somebody_there() else Wish.STOP
        if wish is Wish.DETACH:
            return self._detach()
        if wish is Wish.STOP:
            self._stop()
        else:
            self._interrupted = 0
        return None

    def _ask(self) -> Wish:
        question = "[s]ave and stop, [d]etach (the training goes on), or [c]ontinue watching?"
        try:
            with raising():
                while True:
                    answer = self._screen.ask(question).strip().lower()[:1]
                    if answer in ("s", "d", "c"):
                        return Wish(answer)
                    if not answer and not sys.stdin.isatty():
                        return Wish.DETACH
        except KeyboardInterrupt:
            return Wish.DETACH

    def _stop(self) -> None:
        self._screen.say("save and stop; once more detaches")
        with contextlib.suppress(RefusedByGuard):  # it has ended meanwhile: that is told next
            self._client.ask(StopRun(run=self._name), Done)

    def _detach(self) -> int:
        self._screen.status("")
        name = self._name
        self._screen.say(f"detached; {name} goes on. Look: runctl logs -f {name}; end: runctl stop {name}")
        self._screen.close()
        return 0


def _somebody_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
