"""Wakes somebody up when something happens in a directory. A hint, never the truth: events get lost."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.api import BaseObserver

log = logging.getLogger("runctl.watcher")


class Wakeup:
    """Calls `wake` from a thread of its own, any number of times, after files came, went or were closed."""

    def __init__(self, folder: Path, wake: Callable[[], None]) -> None:
        self._folder = folder
        self._wake = wake
        self._observer: BaseObserver | None = None

    def start(self) -> bool:
        """Begin, anew if need be. False when the system has no events to give; then look by the clock."""
        self.stop()
        # It takes longer to import than all the rest of the agent.
        from watchdog import events
        from watchdog.observers import Observer

        wake = self._wake

        class Handler(events.FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                wake()

        # Not those of opening and reading, which looking causes itself, nor of each single write.
        wanted: list[type[FileSystemEvent]] = [
            events.FileClosedEvent,
            events.FileCreatedEvent,
            events.FileMovedEvent,
            events.FileDeletedEvent,
            events.DirCreatedEvent,
            events.DirMovedEvent,
        ]
        try:
            self._observer = Observer()
            # The real path: a watch on a symbolic link hears nothing of the folder behind it.
            folder = os.path.realpath(self._folder)
            self._observer.schedule(Handler(), folder, recursive=True, event_filter=wanted)
            self._observer.start()
        except OSError as error:
            # Most often the limit of watches (ENOSPC) or of watchers (EMFILE), or the folder has just gone.
            log.info("watcher.no_events folder=%s why=%s", self._folder, error)
            self.stop()
            return False
        return True

    def stop(self) -> None:
        """Returns when its threads have ended."""
        observer, self._observer = self._observer, None
        if observer is None:
            return
        observer.stop()
        # One that has never run cannot be waited for.
        with contextlib.suppress(RuntimeError):
            observer.join()
