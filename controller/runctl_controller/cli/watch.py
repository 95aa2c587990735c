"""``--watch``: what a command shows, drawn again whenever something happens to a run."""

from __future__ import annotations

import io
import os
import queue
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, TextIO

import msgspec

from runctl_controller.cli.signals import noted
from runctl_controller.client.client import Client
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.errors import NoController, RunctlError, UsageError
from runctl_shared.messages.codec import Message
from runctl_shared.messages.replies import Done, OutputRelayed
from runctl_shared.messages.requests import FollowRun

REFRESH = 0.25
"""Seconds that a picture stays at least: a fast training must not make it flicker."""
RENEW, LASTS = 5.0, 15.0
"""Seconds between two times that progress is asked for (and ages are counted on), and for which it comes."""
QUIET = 30.0
"""Seconds without a word from the feed after which the controller is asked all the same."""
MOST_FOLLOWED = 100
_BEGIN, _END = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"
_DEAF = "no controller answers; waiting for one"
_NONE = "no controller runs; any other command starts one"


class Picture(msgspec.Struct, frozen=True):
    """What is shown: `print_it(now)` prints it; `runs` are those that go on; `only`: nothing but what happens
    to that run changes it."""

    print_it: Callable[[float], None]
    runs: Sequence[str]
    only: str | None = None


def check(as_json: bool) -> None:
    """Raise UsageError where nothing can be drawn."""
    if as_json:
        raise UsageError(
            "--watch and --json cannot be combined.", "`runctl events -f --json` tells what happens."
        )
    if not sys.stdout.isatty():
        raise UsageError("--watch needs a terminal.", "Without one, `runctl events -f` tells what happens.")


def watch(client: Client, look: Callable[[], Picture], alive: Callable[[], bool]) -> int:
    """Draw what `look` finds, until Ctrl-C; what was drawn last stays on the terminal. `alive` says whether a
    controller may be there to be asked. Raises what the first look raises."""
    watcher = Watcher(client, look, alive, SystemClock(), sys.stdout)
    try:
        with noted(watcher.wake) as signals, _resized(watcher.wake):
            sys.stdout.write(_BEGIN)
            try:
                while (number := signals.take()) is None:
                    watcher.turn()
            finally:
                sys.stdout.write(_END + watcher.text)
                sys.stdout.flush()
    finally:
        watcher.close()
    return 128 + number


class Watcher:
    """Draws on `out`, a terminal. Everything but `wake` is one thread's."""

    def __init__(
        self,
        client: Client,
        look: Callable[[], Picture],
        alive: Callable[[], bool],
        clock: Clock,
        out: TextIO,
    ) -> None:
        self._client, self._look, self._alive, self._clock, self._out = client, look, alive, clock, out
        self._inbox: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._trouble = ""
        self._picture = look()
        self._looked_at = clock.monotonic()
        self._renew_at = 0.0
        self.text = ""
        """What was drawn last, whole."""
        self._subscription = client.listen(self._heard)
        self._inbox.put(True)  # what has happened since the look

    def wake(self) -> None:
        """Have `turn` return soon. Safe in a signal handler."""
        self._inbox.put(False)

    def close(self) -> None:
        self._subscription.close()

    def turn(self) -> None:
        """Draw, then wait until there is reason to draw again."""
        now = self._clock.monotonic()
        if now >= self._renew_at:
            self._renew_at = now + RENEW
            self._renew()
        self._draw()
        if self._news(RENEW) or self._clock.monotonic() - self._looked_at > QUIET:
            self._refresh()

    def _heard(self, message: Message[Any]) -> None:
        """On the bus's thread."""
        if not isinstance(message.body, OutputRelayed) and self._picture.only in (None, message.envelope.run):
            self._inbox.put(True)

    def _news(self, wait: float) -> bool:
        """Wait for something to happen, and then a little for what follows at once."""
        news = False
        until = self._clock.monotonic() + wait
        while (left := until - self._clock.monotonic()) > 0:
            try:
                woken = not self._inbox.get(timeout=left)
            except queue.Empty:
                break
            if woken:
                break
            until = until if news else self._clock.monotonic() + REFRESH
            news = True
        return news

    def _refresh(self) -> None:
        if not self._somebody_there():
            return
        self._looked_at = self._clock.monotonic()
        try:
            self._picture = self._look()
            self._trouble = ""
        except NoController:
            self._trouble = _DEAF
        except RunctlError as error:  # the run was forgotten, say: what was known of it stays
            self._trouble = error.what

    def _renew(self) -> None:
        """Have the progress of the runs on the feed for a while."""
        if not self._picture.runs or not self._somebody_there():
            return
        for run in self._picture.runs[:MOST_FOLLOWED]:
            try:
                self._client.ask(FollowRun(run=run, seconds=LASTS, output=False), Done)
            except NoController:
                self._trouble = _DEAF
                return
            except RunctlError:
                continue  # it was forgotten meanwhile
        if self._trouble:
            self._refresh()

    def _somebody_there(self) -> bool:
        """Without a controller nothing happens, and where nothing goes on none is missed."""
        if self._alive():
            return True
        self._trouble = _NONE if self._picture.runs else ""
        return False

    def _draw(self) -> None:
        held = io.StringIO()
        with redirect_stdout(held):
            self._picture.print_it(self._clock.now())
        self.text = held.getvalue()
        width, height = os.get_terminal_size(self._out.fileno())
        lines = frame(self.text, self._trouble, width or 80, height or 24)
        self._out.write(_HOME + "\n".join(line + _REST_OF_LINE for line in lines) + _REST)
        self._out.flush()


def frame(text: str, trouble: str, width: int, height: int) -> list[str]:
    """The lines that a terminal of this size has room for; what does not fit is counted in the last one."""
    lines = text.splitlines()
    below = [f"runctl: {trouble}"] if trouble else []
    room = max(1, height - 1 - len(below))
    if len(lines) > room:
        lines = [*lines[: room - 1], f"… {len(lines) - room + 1} more lines"]
    return [line[: width - 1] for line in [*lines, *below]]


@contextmanager
def _resized(wake: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGWINCH, lambda *_: wake())
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
