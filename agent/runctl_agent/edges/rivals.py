"""Several processes that write one file of a checkpoint: looked for only when there is reason to."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from runctl_agent.core import inputs
from runctl_agent.trainer import procfs
from runctl_agent.trainer.targets import Process, describe
from runctl_agent.trainer.writers import handles, shared
from runctl_agent.watcher.model import Busy
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.agent")
PAUSE = 0.25
"""Seconds between two looks: one costs some milliseconds."""
MOST = 200
"""Looks in the life of an agent."""
MOST_TOLD = 5


class Rivals:
    """`asked()`: whether the training was asked to save, which is rare and when all ranks save at once. The
    other reasons are a checkpoint that was not whole although nobody wrote to it any more, and one that is
    never left alone. For the watcher's thread."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        pid: Callable[[], int | None],
        asked: Callable[[], bool],
        tell: Callable[[inputs.Input], None],
    ) -> None:
        self._folder, self._clock, self._pid, self._asked, self._tell = folder, clock, pid, asked, tell
        self._next = 0.0
        self._looks = 0
        self._told: set[str] = set()

    def busy(self, busy: Sequence[Busy], suspicious: bool) -> None:
        """These are being written. `suspicious`: as in Inspector."""
        now, pid = self._clock.monotonic(), self._pid()
        wanted = suspicious or self._asked()
        if pid is None or not busy or not wanted or now < self._next or self._looks >= MOST:
            return
        self._next = now + PAUSE
        self._looks += 1
        root = os.path.realpath(self._folder)
        names = {os.path.join(root, path): path for each in busy for path in each.files}
        found = shared(handles(names.keys(), procfs.snapshot(pid)))
        for path, processes in found.items():
            self._found(now, names[path], processes)

    def _found(self, at: float, path: str, processes: Sequence[Process]) -> None:
        if path in self._told or len(self._told) >= MOST_TOLD:
            return
        self._told.add(path)
        writers = tuple(_words(process) for process in processes[:8])
        log.warning("checkpoint.rivals path=%r pids=%s", path, ",".join(str(p.pid) for p in processes))
        self._tell(inputs.RivalsSeen(at=at, path=path, writers=writers))


def _words(process: Process) -> str:
    rank = next(
        (f", rank {process.ranks[name]}" for name in ("RANK", *process.ranks) if name in process.ranks), ""
    )
    return f"{describe(process)} (process {process.pid}{rank})"[:200]
