"""Watching a training: what it prints, and what it saves."""

from __future__ import annotations

import threading

from runctl_agent.trainer.output import OutputTail
from runctl_agent.watcher.watcher import Watcher


class Attention:
    """`begin` and `stop` are the loop's; `all_read` is for any thread."""

    def __init__(self, tail: OutputTail, watcher: Watcher) -> None:
        self._tail, self._watcher = tail, watcher
        self._reading = threading.Event()

    def begin(self) -> None:
        """Does nothing twice."""
        if not self._reading.is_set():
            self._watcher.start()
            self._tail.start()
            self._reading.set()

    def all_read(self, timeout: float) -> None:
        """The training has ended: wait until everything that it printed has been read."""
        # A training that was found by a restarted agent may say that it has ended before anybody reads.
        if self._reading.wait(timeout):
            self._tail.finish(timeout)

    def stop(self) -> None:
        self._watcher.stop()
