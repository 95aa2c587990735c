"""The processes of a machine: finding them all, and ending them all.

A process belongs to a machine when its environment carries the machine's mark, when it descends from the
machine's host or from such a process, or when it shares a session with one. Daemons leave the family but keep
their environment; programs that write over their environment (to set their title) stay in family and session.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

MARK = "RUNCTL_MACHINE_DIR"
"""The environment variable that marks a machine's processes. Its value, the path of the machine's folder, is
unlike that of any other installation."""

_PR_SET_CHILD_SUBREAPER = 36
_ROUND_SECONDS = 1.0


def adopt_orphans() -> bool:
    """Become the parent of every descendant whose own parent dies. False where the system cannot."""
    if sys.platform != "linux":
        return False
    return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


class _Seen(NamedTuple):
    process: psutil.Process
    parent: int
    session: int
    marked: bool


def members(mark: str, host: int | None = None, name: str = MARK) -> list[psutil.Process]:
    """The processes of the machine whose mark (the variable `name`) has the value `mark`, at this moment;
    with `host`, also all that descends from that process, without itself. Never the caller, its ancestors, or
    a zombie."""
    table = _table((name, mark), spare=_line_of(os.getpid()))
    inside = {pid for pid, seen in table.items() if seen.marked or (host is not None and seen.parent == host)}
    while True:
        sessions = {table[pid].session for pid in inside}
        more = {
            pid
            for pid, seen in table.items()
            if pid not in inside and (seen.parent in inside or seen.session in sessions)
        }
        if not more:
            return [table[pid].process for pid in inside]
        inside |= more


def end_all(find: Callable[[], Iterable[psutil.Process]], rounds: int | None = None) -> bool:
    """Kill whatever `find` finds until it twice finds nothing: what was born while one looked is seen by the
    second look. After `rounds` (None: never) gives up and returns False."""
    empty = 0
    while empty < 2:
        if rounds is not None:
            if rounds == 0:
                return False
            rounds -= 1
        victims = list(find())
        empty = 0 if victims else empty + 1
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()  # psutil makes sure that the pid still is the same process
        if victims:
            psutil.wait_procs(victims, timeout=_ROUND_SECONDS)
    return True


def _line_of(pid: int) -> set[int]:
    with contextlib.suppress(psutil.Error):
        return {pid, *(parent.pid for parent in psutil.Process(pid).parents())}
    return {pid}


def _table(mark: tuple[str, str], spare: set[int]) -> dict[int, _Seen]:
    table = {}
    for process in psutil.process_iter():
        if process.pid in spare:
            continue
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            if process.status() != psutil.STATUS_ZOMBIE:
                parent = process.ppid()
                table[process.pid] = _Seen(process, parent, os.getsid(process.pid), _marked(process, mark))
    return table


def _marked(process: psutil.Process, mark: tuple[str, str]) -> bool:
    try:
        return process.environ().get(mark[0]) == mark[1]
    except (psutil.Error, OSError):  # another user's, or gone
        return False
