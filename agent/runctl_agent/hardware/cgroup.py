"""Control groups: which one a process's memory is counted in, its limit, and whom the kernel killed there.

v2: `memory.events` (Documentation/admin-guide/cgroup-v2.rst): `oom_kill` counts the group's processes that
were killed by any kind of OOM killer, descendants included. v1: `memory.oom_control` has such a line as well
(Documentation/admin-guide/cgroup-v1/memory.rst), for the group alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_UNLIMITED = 1 << 60
"""Bytes; v1 writes a number near 2**63 for "no limit"."""


@dataclass(frozen=True)
class Group:
    """A memory control group: its folder, its name in the kernel's log, and the files that tell of it."""

    folder: Path
    name: str
    events: str
    limits: str

    def kills(self) -> int | None:
        """How many of its processes the kernel has killed for want of memory; None when that is not told."""
        try:
            lines = (self.folder / self.events).read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)

    def limit(self) -> int | None:
        """The least limit in bytes on it or a group around it, as far as it can be seen from here."""
        limits = []
        for folder in (self.folder, *self.folder.parents):
            try:
                text = (folder / self.limits).read_text().strip()
            except OSError:
                break
            if text.isdecimal() and int(text) < _UNLIMITED:
                limits.append(int(text))
        return min(limits, default=None)


def memory_group(pid: int | str, proc: Path = Path("/proc")) -> Group | None:
    """The group in which the memory of `pid` ("self": our own) is counted; None when that cannot be told."""
    try:
        groups = (proc / str(pid) / "cgroup").read_text().splitlines()
        mounts = (proc / "self" / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    names = {}
    for line in groups:
        _, controllers, name = line.split(":", 2)
        names[controllers] = name
    for controllers, name in names.items():
        if "memory" in controllers.split(","):
            folder = _folder(mounts, name, "cgroup", "memory")
            return (
                None if folder is None else Group(folder, name, "memory.oom_control", "memory.limit_in_bytes")
            )
    if "" in names:
        folder = _folder(mounts, names[""], "cgroup2", None)
        return None if folder is None else Group(folder, names[""], "memory.events", "memory.max")
    return None


def _folder(mounts: list[str], name: str, kind: str, option: str | None) -> Path | None:
    """Where the group `name` is mounted. In a container, what is mounted may begin further down."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, (fs, *_, options) = before.split(), after.split()  # what is mounted may have no name
        if fs != kind or (option is not None and option not in options.split(",")):
            continue
        root, mount = fields[3], Path(fields[4])
        if root == "/" or (name + "/").startswith(root.rstrip("/") + "/"):
            below = name if root == "/" else name[len(root.rstrip("/")) :]
            folder = mount / below.strip("/")
            if folder.is_dir():
                return folder
    return None


def machine_kills(proc: Path = Path("/proc")) -> int | None:
    """How many processes of the whole machine the kernel has killed for want of memory since it booted."""
    try:
        lines = (proc / "vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
