"""Ends a training with everything it has started, at once and for good."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping

from runctl_agent.trainer import procfs
from runctl_agent.trainer.minder import boot_id
from runctl_agent.trainer.record import Record
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.trainer")

MARKS = ("RUNCTL_RUN", "RUNCTL_ATTEMPT")
"""Environment variables that, together, mark every process of one attempt."""


def end_all(record: Record, marks: Mapping[str, str], clock: Clock, timeout: float) -> tuple[int, ...]:
    """SIGKILL all processes of the training, again and again until none is left; the ids of those that
    outlived `timeout` seconds (the kernel ends no process that waits for a dead disk).

    They are found by four traces, since a process can lose any of them: descent from the training, descent
    from its minder (which adopts orphans), the training's session, and the attempt's `marks` in the
    environment.
    """
    deadline = clock.monotonic() + timeout
    while True:
        left = belongings(record, marks)
        if not left:
            return ()
        for pid, start in left:
            _kill(pid, start)
        for pid, start in left:
            procfs.wait_gone(pid, start, max(0.0, deadline - clock.monotonic()))
        if clock.monotonic() >= deadline:
            survivors = tuple(pid for pid, start in left if procfs.is_alive(pid, start))
            if survivors:
                log.error("trainer.unkillable pids=%s", ",".join(map(str, survivors)))
                return survivors


def belongings(record: Record, marks: Mapping[str, str]) -> list[tuple[int, int]]:
    """The living processes of the training as (process id, start time); never the minder, this agent, nor
    whoever started it."""
    if boot_id() != record.boot:
        return []
    processes = procfs.all_processes()
    spared = _ancestry(processes, os.getpid())
    roots = []
    leader = processes.get(record.pid)
    if leader is not None and leader.start == record.start:
        roots.append(record.pid)
    minder = processes.get(record.minder)
    if minder is not None and minder.start == record.minder_start:
        roots.append(record.minder)
        spared.add(record.minder)
    # An id is not given away again while a session of that number has members, unless it all ended before.
    same_session = leader is None or leader.start == record.start
    family = procfs.descendants(processes, roots)
    return [
        (stat.pid, stat.start)
        for stat in processes.values()
        if not stat.dead
        and stat.pid not in spared
        and stat.start >= record.start
        and (
            stat.pid in family or (same_session and stat.session == record.pid) or _is_marked(stat.pid, marks)
        )
    ]


def _is_marked(pid: int, marks: Mapping[str, str]) -> bool:
    if set(marks) != set(MARKS):
        return False
    environment = procfs.environment(pid)
    return all(environment.get(name) == value for name, value in marks.items())


def _ancestry(processes: Mapping[int, procfs.Stat], pid: int) -> set[int]:
    found = set()
    while pid in processes and pid not in found:
        found.add(pid)
        pid = processes[pid].ppid
    return found


def _kill(pid: int, start: int) -> None:
    try:
        procfs.send(pid, start, signal.SIGKILL)
    except PermissionError:
        log.warning("trainer.not_ours pid=%d", pid)
