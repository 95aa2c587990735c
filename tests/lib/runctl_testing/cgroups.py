"""Control groups with a memory limit, where this machine lets the tests make some."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runctl_agent.hardware.cgroup import Group, memory_group
from runctl_shared.draw import new_id
from runctl_testing.eventually import eventually


@contextmanager
def limited(size: int) -> Iterator[Group]:
    """A group whose processes may use `size` bytes together. Skips the test where none can be made."""
    own = memory_group("self")
    if own is None:
        pytest.skip("this machine shows no memory control group")
    folder = _top(own) / new_id(_name(os.getpid()))
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"a memory control group cannot be made here: {error.strerror}")
    try:
        if not (folder / own.limits).exists():
            pytest.skip("control groups do not limit memory here")
        (folder / own.limits).write_text(str(size))
        swap = folder / ("memory.swap.max" if own.limits == "memory.max" else "memory.memsw.limit_in_bytes")
        if swap.exists():
            swap.write_text("0" if own.limits == "memory.max" else str(size))
        yield Group(folder, f"/{folder.name}", own.events, own.limits)
    finally:
        eventually(lambda: not (folder / "cgroup.procs").read_text().split(), what="the group to be empty")
        folder.rmdir()


def remove_leftovers(of: int) -> None:
    """Remove the groups that the test process `of` has made; nothing runs in them any more."""
    own = memory_group("self")
    for folder in [] if own is None else _top(own).glob(f"{_name(of)}-*"):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _name(process: int) -> str:
    return f"runctl-test-{process}"


def _top(group: Group) -> Path:
    """The outermost group that can be seen from here."""
    top = group.folder
    while (top.parent / group.limits).exists() or (top.parent / "cgroup.procs").exists():
        top = top.parent
    return top


def entering(group: Group, *command: str) -> tuple[str, ...]:
    """The words that run `command` inside `group`."""
    return ("sh", "-c", f'echo $$ > {group.folder}/cgroup.procs && exec "$@"', "sh", *command)


def pid_is_the_kernels() -> bool:
    """Whether process ids here are those in the kernel's log."""
    return os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC
