"""Find, and end, what a test run has started: every process inherits the run's mark in its environment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import psutil

from runctl_testing.eventually import eventually

# Set by tests/conftest.py for the whole run; each Broker adds a mark of its own.
# Not RUNCTL_…: those are settings, which tests clear and runctl checks.
SESSION = "TEST_SESSION_OF_RUNCTL"


def marked(name: str, value: str) -> Iterator[psutil.Process]:
    """The living processes whose environment says `name=value`, this one aside.

    What belongs to another user, or ends while being looked at, is passed over: it is not ours or not there.
    """
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) == value:
                yield process
        except (psutil.Error, OSError):
            continue


def describe(process: psutil.Process) -> str:
    """One line about `process` for a person who wonders where it came from."""
    try:
        return f"{process.pid} {' '.join(process.cmdline())[:160]}"
    except psutil.Error:
        return f"{process.pid} (ended meanwhile)"


def end_marked(name: str, value: str, patience: float = 10.0) -> list[int]:
    """SIGKILL everything so marked until nothing is; returns the ids of what outlived `patience` seconds.

    More than one pass, since a process may have forked between being listed and being killed. A zombie has no
    environment left and counts as gone.
    """

    def none_left() -> bool:
        for process in marked(name, value):
            with contextlib.suppress(psutil.Error):
                process.kill()
        return not list(marked(name, value))

    try:
        eventually(none_left, patience)
    except AssertionError:
        return [process.pid for process in marked(name, value)]
    return []


def guard_script() -> Path:
    """The program that ends a run's processes when pytest can no longer do so itself."""
    return Path(__file__).with_name("guard.py")
