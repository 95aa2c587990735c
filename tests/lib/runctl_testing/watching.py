"""Watchers of real folders, and another process that writes into them as slowly as it is told to."""

from __future__ import annotations

import io
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from runctl_agent.watcher.model import Candidate
from runctl_agent.watcher.watcher import Watcher
from runctl_shared.clock import FakeClock, SystemClock

QUIET = 2.0

WRITER = """
import os, sys
file = open(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "wb")
print("open", flush=True)
for line in sys.stdin:
    file.write(bytes.fromhex(line)); file.flush()
    print("written", flush=True)
file.close()
print("closed", flush=True)
"""


class Writer:
    """Another process that writes a file in place, as slowly as it is told to."""

    def __init__(self, path: Path, mode: str = "wb") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("open")

    def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(data.hex() + "\n")
        self._process.stdin.flush()
        self._expect("written")

    def finish(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._expect("closed")

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def writers() -> Iterator[Callable[..., Writer]]:
    """For a fixture: makes writers, and ends them all at the end of the test."""
    made: list[Writer] = []

    def make(path: Path, mode: str = "wb") -> Writer:
        made.append(Writer(path, mode))
        return made[-1]

    yield make
    for each in made:
        each.close()


def npz(step: int, size: int = 2000) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, weights=np.arange(size, dtype=np.float64) + step, step=np.array(step))
    return buffer.getvalue()


class ByHand:
    """A watcher without its thread: it looks when the test says so, at the time that the test says it is."""

    def __init__(self, root: Path, memory: Path | None = None) -> None:
        self.clock = FakeClock()
        self.watcher = Watcher(root, self._never, self.clock, quiet=QUIET, memory=memory)

    def _never(self, candidate: Candidate) -> None:
        raise AssertionError("nobody has started the thread")

    def look(self, after: float = 0.0, *, writer_gone: bool = False) -> list[str]:
        return [candidate.root_name for candidate in self.candidates(after, writer_gone=writer_gone)]

    def candidates(self, after: float = 0.0, *, writer_gone: bool = False) -> list[Candidate]:
        self.clock.advance(after)
        return self.watcher.scan_now(writer_gone=writer_gone)


class Inbox:
    """A started watcher, and what it handed over."""

    def __init__(self, root: Path, quiet: float = 0.2) -> None:
        self.arrived = queue.Queue[Candidate]()
        self.watcher = Watcher(root, self.arrived.put, SystemClock(), quiet=quiet)
        self.watcher.start()

    def next(self) -> Candidate:
        return self.arrived.get(timeout=60)

    def close(self) -> None:
        self.watcher.stop()
