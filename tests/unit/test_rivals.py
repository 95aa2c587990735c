"""Several processes that write one file: found on real processes, and only when it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runctl_agent.core import inputs
from runctl_agent.edges.rivals import PAUSE, Rivals
from runctl_agent.trainer.procfs import snapshot
from runctl_agent.trainer.targets import Process
from runctl_agent.trainer.writers import Handle, handles, shared
from runctl_agent.watcher.model import Busy
from runctl_shared.clock import FakeClock

# A launcher with two ranks; each opens what it is told, and `fork` has a worker inherit it.
RANK = """
import os, sys
file = open(sys.argv[1], sys.argv[2])
if "fork" in sys.argv and os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[Callable[..., None]]:
    made: list[subprocess.Popen[str]] = []

    def start(number: int, path: Path, mode: str = "wb", *more: str) -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", RANK, str(path), mode, *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"RANK": str(number)},
        )
        made.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"

    yield start
    for process in made:
        process.communicate()


def look(path: Path) -> list[str]:
    return list(shared(handles({os.path.realpath(path)}, snapshot(os.getpid()))))


def test_two_processes_that_open_one_file_are_found(tmp_path: Path, rank: Callable[..., None]) -> None:
    """Would miss the ranks that overwrite each other's checkpoint."""
    rank(0, tmp_path / "model.pt")
    assert look(tmp_path / "model.pt") == []
    rank(1, tmp_path / "model.pt")
    assert look(tmp_path / "model.pt") == [os.path.realpath(tmp_path / "model.pt")]


@pytest.mark.parametrize(("mode", "more"), [("rb", ()), ("wb", ("fork",))])
def test_readers_and_workers_that_inherit_are_no_rivals(
    tmp_path: Path, rank: Callable[..., None], mode: str, more: tuple[str, ...]
) -> None:
    """Would blame each data loader that forks while its parent saves."""
    path = tmp_path / "model.pt"
    path.touch()
    if mode == "rb":
        rank(0, path)
    rank(1, path, mode, *more)
    assert look(path) == []


def test_where_the_kernel_does_not_tell_only_ranks_count() -> None:
    """Would blame a forked worker in a container that forbids kcmp."""
    parent, worker = Process(1, 0, (), {"RANK": "0"}), Process(2, 1, (), {"RANK": "0"})
    other = Process(3, 0, (), {"RANK": "1"})

    def unknown(_one: tuple[int, int], _other: tuple[int, int]) -> bool | None:
        return None

    assert shared([Handle(parent, 3, "/a"), Handle(worker, 3, "/a")], unknown) == {}
    assert shared([Handle(parent, 3, "/a"), Handle(other, 3, "/a")], unknown) == {"/a": [parent, other]}


def test_it_looks_only_with_a_reason_and_tells_once(tmp_path: Path, rank: Callable[..., None]) -> None:
    """Would cost every training a pass through /proc at each save."""
    rank(0, tmp_path / "model.pt")
    rank(1, tmp_path / "model.pt")
    told: list[inputs.Input] = []
    clock, asked = FakeClock(), False
    rivals = Rivals(tmp_path, clock, os.getpid, lambda: asked, told.append)
    busy = [Busy("model.pt", ("model.pt",))]
    rivals.busy(busy, False)
    assert told == []
    asked = True
    rivals.busy(busy, False)
    [seen] = told
    assert isinstance(seen, inputs.RivalsSeen)
    assert seen.path == "model.pt"
    assert sorted(words[-7:] for words in seen.writers) == ["rank 0)", "rank 1)"]
    clock.advance(PAUSE)
    rivals.busy(busy, True)
    assert len(told) == 1
