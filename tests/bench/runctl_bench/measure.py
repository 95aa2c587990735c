"""CPU time of whole commands and of living processes. Ratios are of medians, taken in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

BARE = (sys.executable, "-c", "pass")
"""What commands are held against."""


def clean_env(extra: Mapping[str, str] = {}) -> dict[str, str]:
    """The environment without what changes the figures: compiled modules are used, as users use them."""
    drop = ("RUNCTL_", "XDG_", "PYTHON")
    return {k: v for k, v in os.environ.items() if not k.startswith(drop)} | dict(extra)


def cpu_seconds(argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> float:
    """CPU seconds, user and system, of a command and the children that it waited for.

    Raises RuntimeError with its output when it fails: a figure of a failure would look good.
    """
    with subprocess.Popen(
        argv, env=dict(env), cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}: {said.decode()[-500:]}")
    return usage.ru_utime + usage.ru_stime


def times_bare(
    argv: Sequence[str], env: Mapping[str, str], cwd: Path | None = None, rounds: int = 15
) -> float:
    """How many times the CPU time of `python -c pass` the command takes."""
    for command in (BARE, argv):
        cpu_seconds(command, env, cwd)  # once for the caches
    pairs = [(cpu_seconds(argv, env, cwd), cpu_seconds(BARE, env, cwd)) for _ in range(rounds)]
    return statistics.median(p[0] for p in pairs) / statistics.median(p[1] for p in pairs)


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds that a living process has used so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def core() -> int:
    """One core that this process may use."""
    return min(psutil.Process().cpu_affinity() or [0])
