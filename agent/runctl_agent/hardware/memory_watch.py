"""Whom the kernel killed for want of memory, and what the training said of it itself."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from runctl_agent.core.model import MemoryTrace
from runctl_agent.hardware.cgroup import Group, machine_kills, memory_group
from runctl_agent.hardware.kernel_log import KillLine
from runctl_agent.hardware.words import out_of_memory
from runctl_shared.clock import Clock
from runctl_shared.units import format_bytes

_INITIAL_NAMESPACE = 0xEFFFFFFC
"""Number of the machine's own namespace of process ids (PROC_PID_INIT_INO): there, ours are the kernel's."""
_SAID = {
    "gpu": "the GPU's memory ran out",
    "process": "the training could not have the memory that it asked for",
    "shared": "the shared memory ran out",
}


class MemoryWatch:
    """One thread's, but for `heard`. Counters are compared with what they were when the training began."""

    def __init__(self, clock: Clock, proc: Path = Path("/proc")) -> None:
        self._clock, self._proc = clock, proc
        self._group: Group | None = None
        self._kills: int | None = None
        self._machine_kills: int | None = None
        self._risen_at: float | None = None
        self._machine_risen_at: float | None = None
        self._main = 0
        self._pids: set[int] = set()
        self._lines: list[tuple[KillLine, float]] = []

    def begin(self, pid: int) -> None:
        """A training of which `pid` is the main process runs from now on."""
        self._main, self._pids = pid, {pid}
        self._group = memory_group(pid, self._proc) or memory_group("self", self._proc)
        self._kills = self._group.kills() if self._group is not None else None
        self._machine_kills = machine_kills(self._proc)

    def heard(self, line: KillLine, at: float) -> None:
        """The kernel's log says so. Any thread's."""
        self._lines = [*self._lines[-50:], (line, at)]

    def beat(self, pids: Iterable[int]) -> None:
        """Now and then; `pids`: the training's processes as they are."""
        now, alive = self._clock.monotonic(), set(pids)
        self._pids |= alive
        if len(self._pids) > 10_000:
            self._pids = alive
        if self._main in alive:
            self.follow()
        kills = self._group.kills() if self._group is not None else None
        if kills is not None and self._kills is not None and kills > self._kills:
            self._kills, self._risen_at = kills, now
        kills = machine_kills(self._proc)
        if kills is not None and self._machine_kills is not None and kills > self._machine_kills:
            self._machine_kills, self._machine_risen_at = kills, now

    def follow(self) -> None:
        """A training may be moved, or move itself, to another control group."""
        group = memory_group(self._main, self._proc)
        if group is not None and group != self._group:
            self._group, self._kills = group, group.kills()

    def traces(self, printed: Sequence[str]) -> tuple[MemoryTrace, ...]:
        """What there is, now that the training has ended; `printed`: the last lines of its output."""
        self.beat(())
        now = self._clock.monotonic()
        found = [self._of_line(line, at) for line, at in self._lines if self._ours(line)]
        if not found and self._risen_at is not None and self._group is not None:
            limit = self._group.limit()
            where = "limit" if limit is not None else "machine"
            who = "the kernel killed a process of the training's control group for want of memory"
            text = who + ("" if limit is None else f" (its limit is {format_bytes(limit)})")
            found.append(MemoryTrace(memory=where, text=text, at=self._risen_at))  # type: ignore[arg-type]  # one of the two
        if not found and self._kills is None and self._machine_risen_at is not None:
            text = (
                "the kernel killed a process of this machine for want of memory when the training was killed"
            )
            found.append(MemoryTrace(memory="somewhere", text=text, at=self._machine_risen_at))
        said = out_of_memory(printed)
        if said is not None:
            which, line = said
            found.append(MemoryTrace(memory=which, text=f"{_SAID[which]}: {line.strip()[:300]}", at=now))
        return tuple(found)

    def _ours(self, line: KillLine) -> bool:
        """Whether it was a process of the training: it is known as one, or was in its control group."""
        try:
            comparable = os.stat(self._proc / "self/ns/pid").st_ino == _INITIAL_NAMESPACE
        except OSError:
            comparable = False
        if comparable and line.pid in self._pids:
            return True
        return self._group is not None and self._group.name == line.group not in ("", "/")

    def _of_line(self, line: KillLine, at: float) -> MemoryTrace:
        limit = self._group.limit() if line.limit and self._group is not None else None
        size = "" if limit is None else f" of {format_bytes(limit)}"
        why = f"the memory limit{size} of its control group" if line.limit else "the memory of the machine"
        text = f"the kernel killed {line.task} (process {line.pid}): {why} was used up"
        return MemoryTrace(memory="limit" if line.limit else "machine", text=text, at=at)
