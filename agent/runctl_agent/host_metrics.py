"""How the machine is doing: processor, memory, disk, and what the training takes of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runctl_agent.trainer import procfs


@dataclass(frozen=True)
class HostSample:
    """Bytes and per cent. `cpu_percent` is of all cores together, since the sample before (None in the
    first). `trainer_rss` counts memory that processes share once for each of them; None when none runs.
    `disk_free` is what the training's user can still write under the checkpoint folder; None when unknown.
    `trainer_cpu`: seconds of processor time that the training has used, by processes that run or whose end
    was awaited by one that runs; `trainer_states`: the kernel's letter for each of `trainer_pids`."""

    cpu_percent: float | None
    memory_used: int
    memory_total: int
    disk_free: int | None
    trainer_rss: int | None
    trainer_cpu: float | None = None
    trainer_pids: tuple[int, ...] = ()
    trainer_states: tuple[str, ...] = ()


class HostMetrics:
    """Takes samples. Meant for the pace of heartbeats: each reads every process's line in /proc once."""

    def __init__(self, checkpoint_dir: Path) -> None:
        self._checkpoint_dir = checkpoint_dir
        self._sampled = False
        self.last: HostSample | None = None
        """The newest sample."""

    def sample(self, trainer_pid: int | None) -> HostSample:
        import psutil  # some MB, which an agent that has not yet begun to train does without

        cpu = psutil.cpu_percent(interval=None)
        memory = psutil.virtual_memory()
        first, self._sampled = not self._sampled, True
        family = _family(trainer_pid)
        self.last = HostSample(
            cpu_percent=None if first else cpu,
            memory_used=memory.total - memory.available,
            memory_total=memory.total,
            disk_free=_disk_free(self._checkpoint_dir),
            trainer_rss=_rss(family) if family else None,
            trainer_cpu=sum(stat.ticks for stat in family) / os.sysconf("SC_CLK_TCK") if family else None,
            trainer_pids=tuple(stat.pid for stat in family),
            trainer_states=tuple(stat.state for stat in family),
        )
        return self.last


def _disk_free(folder: Path) -> int | None:
    """Of the disk that `folder` is on, or will be on once it is made."""
    for place in (folder, *folder.parents):
        try:
            stat = os.statvfs(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return stat.f_bavail * stat.f_frsize
    return None


def _family(root: int | None) -> list[procfs.Stat]:
    """The training's processes that run, in one pass over /proc."""
    if root is None:
        return []
    processes = procfs.all_processes()
    return [processes[pid] for pid in procfs.descendants(processes, [root])]


def _rss(family: list[procfs.Stat]) -> int | None:
    pages, counted = 0, False
    for stat in family:
        try:
            with open(f"/proc/{stat.pid}/statm", "rb") as file:
                pages += int(file.read().split()[1])
                counted = True
        except OSError:
            continue  # ended just now
    return pages * os.sysconf("SC_PAGE_SIZE") if counted else None
