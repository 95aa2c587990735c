"""What the kernel says about processes. Reads /proc itself: a full pass must be cheap beside a training."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runctl_agent.trainer.minder import start_time
from runctl_agent.trainer.targets import RANK_VARIABLES, Process


@dataclass(frozen=True)
class Stat:
    """One process. `start` is in clock ticks from boot; (pid, start) names it within this boot. `ticks`: of
    processor time that it has used, and its children whose end it has seen; `state`: the kernel's letter."""

    pid: int
    ppid: int
    session: int
    start: int
    dead: bool
    ticks: int = 0
    state: str = "S"


def read_stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in the parentheses may itself hold spaces and parentheses.
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    # A main thread that ended before its others looks like a zombie; the process lives on.
    dead = fields[0] in (b"Z", b"X") and int(fields[17]) <= 1
    ticks = sum(map(int, fields[11:15]))
    return Stat(pid, int(fields[1]), int(fields[3]), int(fields[19]), dead, ticks, fields[0].decode())


def all_processes() -> dict[int, Stat]:
    """Every process of the machine, zombies included, as it is about now."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdecimal())
    return {stat.pid: stat for stat in map(read_stat, pids) if stat is not None}


def descendants(processes: Mapping[int, Stat], roots: Iterable[int]) -> set[int]:
    """The roots that exist, their children, those children's, and so on."""
    children: dict[int, list[int]] = {}
    for stat in processes.values():
        children.setdefault(stat.ppid, []).append(stat.pid)
    found: set[int] = set()
    todo = [pid for pid in roots if pid in processes]
    while todo:
        pid = todo.pop()
        if pid not in found:
            found.add(pid)
            todo += children.get(pid, [])
    return found


def is_alive(pid: int, start: int) -> bool:
    """Whether exactly this process still runs (a zombie does not)."""
    stat = read_stat(pid)
    return stat is not None and stat.start == start and not stat.dead


def environment(pid: int) -> dict[str, str]:
    """The environment with which `pid` was started; empty when it is gone or not ours to read."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:
        return {}
    pairs = (os.fsdecode(entry).partition("=") for entry in entries if entry)
    return {name: value for name, _, value in pairs}


def command_line(pid: int) -> tuple[str, ...]:
    """Its words; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return tuple(os.fsdecode(word) for word in file.read().rstrip(b"\0").split(b"\0"))
    except OSError:
        return ()


def snapshot(root: int) -> list[Process]:
    """`root` and everything below it, as `targets.save_targets` wants it."""
    processes = all_processes()
    found = []
    for pid in sorted(descendants(processes, [root])):
        stat = processes[pid]
        if not stat.dead:
            ranks = {name: value for name, value in environment(pid).items() if name in RANK_VARIABLES}
            found.append(Process(pid, stat.ppid, command_line(pid), ranks, stat.start))
    return found


def send(pid: int, start: int, number: int) -> bool:
    """Signal exactly this process, never another one that has inherited its id. False when it is gone.

    Raises PermissionError for a process that is not ours (one started through sudo, say).
    """
    try:
        handle = _open_handle(pid)
        try:
            if start_time(pid) != start:
                return False
            if handle is None:
                os.kill(pid, number)
            else:
                signal.pidfd_send_signal(handle, number)
        finally:
            if handle is not None:
                os.close(handle)
    except (ProcessLookupError, FileNotFoundError):
        return False
    return True


def wait_gone(pid: int, start: int, timeout: float | None = None) -> bool:
    """Whether the process ended within `timeout` seconds (None: however long it takes)."""
    try:
        handle = _open_handle(pid)
    except ProcessLookupError:
        return True
    if handle is None:
        return _poll_gone(pid, start, timeout)
    try:
        if not is_alive(pid, start):
            return True
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(handle)


def _poll_gone(pid: int, start: int, timeout: float | None) -> bool:
    """For kernels before 5.3 only: nothing there announces the end of a process that is no child."""
    nothing = select.poll()
    waited = 0.0
    while is_alive(pid, start):
        if timeout is not None and waited >= timeout:
            return False
        nothing.poll(100)
        waited += 0.1
    return True


def _open_handle(pid: int) -> int | None:
    """Stands for the process whatever becomes of its id; None where the kernel has no such thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return None  # ENOSYS, or a container that forbids the call
