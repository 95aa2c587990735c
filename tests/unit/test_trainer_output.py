"""The tail of a file that a real or a pretended training prints into."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from runctl_agent.progress.feed import ProgressFeed
from runctl_agent.trainer.output import OutputTail
from runctl_shared.clock import SystemClock
from runctl_testing.eventually import eventually

PATIENCE = 60.0


class Heard:
    """Keeps what it hears; raises at the next chunk when told to."""

    def __init__(self) -> None:
        self.text = b""
        self.first: int | None = None
        self.pauses = self.ends = 0
        self.broken = False

    def chunk(self, offset: int, data: bytes) -> None:
        if self.broken:
            self.broken = False
            raise RuntimeError("on purpose")
        if self.first is None:
            self.first = offset
        assert offset == self.first + len(self.text)
        self.text += data

    def ends_with(self, word: bytes) -> bool:
        return self.text.endswith(word)

    def pause(self) -> None:
        self.pauses += 1

    def end(self) -> None:
        self.ends += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.log"


def tail(path: Path, *heard: Heard | ProgressFeed, offset: int = 0) -> OutputTail:
    it = OutputTail(path, heard, offset=offset, busy=0.01, idle=0.05)
    it.start()
    return it


def append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def test_each_byte_once_and_in_order(path: Path) -> None:
    heard = Heard()
    it = tail(path, heard)  # the file is not there yet
    for n in range(50):
        append(path, b"line %d\n" % n)
    assert it.finish(PATIENCE)
    assert heard.text == path.read_bytes()
    assert (heard.ends, it.offset) == (1, path.stat().st_size)


def test_what_is_appended_while_it_runs_arrives(path: Path) -> None:
    heard = Heard()
    it = tail(path, heard)
    for word in (b"one", b"two", b"three"):
        append(path, word)
        eventually(partial(heard.ends_with, word), PATIENCE)
    eventually(lambda: heard.pauses >= 1, PATIENCE)
    assert it.finish(PATIENCE)


def test_one_pause_per_silence(path: Path) -> None:
    heard = Heard()
    quiet = threading.Event()
    it = tail(path, heard)
    append(path, b"x")
    eventually(lambda: heard.pauses == 1, PATIENCE)
    quiet.wait(0.3)  # several looks long; a second pause would be the mistake
    assert heard.pauses == 1
    assert it.finish(PATIENCE)


def test_it_goes_on_where_another_stopped(path: Path) -> None:
    first, second = Heard(), Heard()
    append(path, b"before")
    it = tail(path, first)
    assert it.finish(PATIENCE)
    append(path, b" and after")
    assert tail(path, second, offset=it.offset).finish(PATIENCE)
    assert (second.first, second.text) == (6, b" and after")


def test_a_file_made_anew_is_read_from_its_beginning(path: Path) -> None:
    first, second = Heard(), Heard()
    append(path, b"short")
    assert tail(path, second, offset=1000).finish(PATIENCE)
    assert (second.first, second.text) == (0, b"short")
    assert first.text == b""


def test_a_listener_that_fails_costs_the_others_nothing(path: Path) -> None:
    broken, heard = Heard(), Heard()
    broken.broken = True
    it = tail(path, broken, heard)
    append(path, b"x")
    eventually(lambda: heard.text == b"x", PATIENCE)
    append(path, b"y")
    assert it.finish(PATIENCE)
    assert (broken.text, heard.text) == (b"y", b"xy")


def test_a_flood_without_a_single_new_line_costs_no_memory(path: Path) -> None:
    append(path, os.urandom(1 << 20).replace(b"\n", b"x").replace(b"\r", b"x") * 20)
    append(path, b"\nstep=7\n")
    feed = ProgressFeed(SystemClock())
    tracemalloc.start()
    try:
        assert tail(path, feed).finish(PATIENCE)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert feed.tracker.step == 7
    assert peak < 4 * 2**20


@pytest.fixture
def bar(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A training that shows a bar, and then takes a long time over one step."""
    code = (
        "import sys, threading\n"
        "for n in range(1, 4):\n"
        "    sys.stderr.write(f'\\r{n}%|#   | {n}/100 [00:10<00:12,  9.2it/s, loss=0.{n}]')\n"
        "    sys.stderr.flush()\n"
        "threading.Event().wait()\n"
    )
    with (
        open(path, "ab") as sink,
        subprocess.Popen([sys.executable, "-c", code], stderr=sink) as process,
    ):
        yield process
        process.kill()


@pytest.mark.usefixtures("bar")
def test_a_bar_that_stands_still_is_read_to_its_newest_state(path: Path) -> None:
    feed = ProgressFeed(SystemClock())
    it = tail(path, feed)
    eventually(lambda: (feed.tracker.step, feed.tracker.loss) == (3, 0.3), PATIENCE)
    assert it.finish(PATIENCE)
