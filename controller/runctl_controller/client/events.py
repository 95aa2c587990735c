"""What happens to runs, each event once and in order, however long one listens.

Events are numbered without a gap, and the feed brings each with its number. One that does not follow the
one before means that the feed has lost something, or that its listener was cut off: then what is missing is
asked for. So is, after a long silence, whatever may have come last.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from runctl_controller.client.client import Client
from runctl_shared.errors import NoController
from runctl_shared.messages.codec import Message
from runctl_shared.messages.replies import EventList, EventView, RunChanged
from runctl_shared.messages.requests import ListEvents

PAGE = 500
QUIET = 30.0
"""Seconds without a word from the feed after which the controller is asked: the last one may be lost, too."""


class Troubled(msgspec.Struct, frozen=True):
    """Listening is hindered, or no longer is; a sentence."""

    text: str


class Events:
    """Of `run` (id, name or beginning), or of all runs. Dependencies: a client, and `alive`, which says
    whether a controller may be there to be asked: without one nothing happens. One thread's."""

    def __init__(self, client: Client, run: str | None, alive: Callable[[], bool]) -> None:
        self._client, self._run, self._alive = client, run, alive
        self._inbox: queue.SimpleQueue[EventView] = queue.SimpleQueue()
        self._found: deque[EventView | Troubled] = deque()
        self._through = 0
        self._deaf = False
        self._subscription = client.listen(self._heard)

    def close(self) -> None:
        self._subscription.close()

    def past(self, limit: int, since: float = 0.0) -> list[EventView]:
        """The newest `limit` events back to `since` (UTC seconds), oldest first; `next` goes on after them.
        Raises NotFound, NoController."""
        pages: deque[tuple[EventView, ...]] = deque()
        before, left = None, limit
        while left > 0:
            body = ListEvents(run=self._run, before=before, since=since, limit=min(left, PAGE))
            found = self._client.ask(body, EventList)
            if before is None:
                self._through = found.through
                self._run = found.run or None
            pages.appendleft(found.events)
            left -= len(found.events)
            if not found.more or not found.events:
                break
            before = found.events[0].story.number
        return [event for page in pages for event in page]

    def next(self, wait: float = QUIET) -> EventView | Troubled | None:
        """The next event; None when nothing has come within `wait` seconds."""
        if not self._found:
            try:
                self._take(self._inbox.get(timeout=wait))
            except queue.Empty:
                self._look()
        return self._found.popleft() if self._found else None

    def _heard(self, message: Message[Any]) -> None:
        """On the bus's thread."""
        body = message.body
        if isinstance(body, RunChanged) and body.story.number:
            self._inbox.put(EventView(run=body.view.run, name=body.view.name, story=body.story))

    def _take(self, event: EventView) -> None:
        number = event.story.number
        if number > self._through + 1:
            self._look()
        elif number == self._through + 1:
            self._through = number
            if self._run in (None, event.run):
                self._found.append(event)

    def _look(self) -> None:
        """Ask for everything after the last event that is known."""
        if not self._alive():
            return
        try:
            while True:
                body = ListEvents(run=self._run, after=self._through, limit=PAGE)
                found = self._client.ask(body, EventList)
                self._found.extend(found.events)
                # Less than before, too: a forgotten run takes its events along, a new state has other ones.
                self._through = found.through
                if not found.more:
                    break
        except NoController:
            if not self._deaf:
                self._deaf = True
                self._found.append(Troubled("no controller answers; waiting for one"))
            return
        if self._deaf:
            self._deaf = False
            self._found.append(Troubled("a controller answers again"))
