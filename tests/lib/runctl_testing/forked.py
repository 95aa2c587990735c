"""Work done in a child process that may be killed, also at a chosen system call."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any

RAISED = 70
"""The exit status of a child whose work raised."""

_CALLS = ("write", "fsync", "rename", "link", "mkdir", "rmdir", "unlink")


def start(work: Callable[[], object]) -> int:
    """Fork a child that does `work` and ends; returns its pid. The caller must `wait` for it."""
    pid = os.fork()
    if pid:
        return pid
    status = RAISED
    try:
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def wait(pid: int) -> int:
    """The exit status of the child; -9 if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def run(work: Callable[[], object]) -> int:
    """Do `work` in a child; returns its exit status: 0, or RAISED."""
    return wait(start(work))


def killed_at(number: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed by SIGKILL at its file system call `number` (from 0): before it, or
    in the middle if it is a write. False when the work ended before that; it must not raise."""

    def die() -> None:
        _kill_at(number)
        work()

    status = run(die)
    assert status in (0, -signal.SIGKILL), status
    return status != 0


def _kill_at(number: int) -> None:
    left = number

    def replace(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if left == 0:
                if name == "write":
                    real(args[0], memoryview(args[1])[: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*args, **kwargs)

        setattr(os, name, call)

    for name in _CALLS:
        replace(name)
