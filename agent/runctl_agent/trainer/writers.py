"""Which processes of a training have a file open for writing, each by itself.

It costs a pass through /proc: look only where something is wrong already, or about to be.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence

import msgspec

from runctl_agent.trainer.kcmp import same_open_file
from runctl_agent.trainer.targets import Process


class Handle(msgspec.Struct, frozen=True):
    """A descriptor of a process, open for writing on `path`."""

    process: Process
    fd: int
    path: str


def handles(paths: Collection[str], processes: Sequence[Process]) -> list[Handle]:
    """The descriptors of `processes` that write to one of `paths` (absolute, without symbolic links)."""
    return [handle for process in processes for handle in _of(process, paths)]


def _of(process: Process, paths: Collection[str]) -> Iterator[Handle]:
    try:
        for fd in os.listdir(f"/proc/{process.pid}/fd"):
            try:
                path = os.readlink(f"/proc/{process.pid}/fd/{fd}")
                if path in paths and _writes(process.pid, fd):
                    yield Handle(process, int(fd), path)
            except OSError:
                continue  # closed meanwhile
    except OSError:
        return  # it is gone, or not ours


def _writes(pid: int, fd: str) -> bool:
    with open(f"/proc/{pid}/fdinfo/{fd}") as file:
        words = dict(line.split(":", 1) for line in file if ":" in line)
    return int(words.get("flags", "0"), 8) & os.O_ACCMODE != os.O_RDONLY


Same = Callable[[tuple[int, int], tuple[int, int]], "bool | None"]


def shared(found: Sequence[Handle], same: Same = same_open_file) -> dict[str, list[Process]]:
    """By path, the processes that opened it apart from one another; only where there are several.

    A worker inherits what its parent has open, and does not write to it. Where the kernel does not tell the
    two apart, only processes of different ranks count: launchers do not open their ranks' files.
    """
    by_path: dict[str, list[Handle]] = {}
    for handle in found:
        apart = by_path.setdefault(handle.path, [])
        if all(_apart(handle, other, same) for other in apart):
            apart.append(handle)
    return {path: [handle.process for handle in apart] for path, apart in by_path.items() if len(apart) > 1}


def _apart(one: Handle, other: Handle, same: Same) -> bool:
    if one.process.pid == other.process.pid:
        return False  # one process may well write with several threads
    told = same((one.process.pid, one.fd), (other.process.pid, other.fd))
    if told is None:
        return dict(one.process.ranks) != dict(other.process.ranks)
    return not told
