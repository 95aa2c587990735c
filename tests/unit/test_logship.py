"""The training's output reaches the store, whole, in time, and without being held in memory."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runctl_agent.edges.logship import EVERY, LogShipper, StoredOutput
from runctl_shared.checkpoints.logs import SEGMENT
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.clock import FakeClock
from runctl_testing import checkpoints
from runctl_testing.checkpoints import RUN


class Output:
    """A training's output, its tail, and the store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.store = MemoryStore()
        self.logs = checkpoints.repository(self.store).logs
        self.wanted: list[int] = []
        self.shipper = LogShipper(self.clock, self.wanted.append)
        self.stored = StoredOutput(self.logs, 2, path)
        self.size = 0

    def prints(self, data: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(data)
        self.shipper.chunk(self.size, data)
        self.size += len(data)

    def ship(self) -> None:
        """What the keeper does, whenever it gets to it."""
        for size in self.wanted:
            self.stored.bring_up_to(size)
        self.wanted.clear()

    def in_store(self) -> bytes:
        return self.logs.read_log(2, 0, 1 << 30)

    @property
    def puts(self) -> int:
        return sum(operation == "put" for operation, _ in self.store.calls)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "output.log")


def test_the_first_line_is_stored_at_once(output: Output) -> None:
    output.prints(b"hello\n")
    output.ship()
    assert output.in_store() == b"hello\n"


def test_a_training_that_prints_all_the_time_is_not_stored_all_the_time(output: Output) -> None:
    for _ in range(100):
        output.prints(b"a line\n")
        output.shipper.pause()
        output.clock.advance(EVERY / 10)
    output.ship()
    assert 9 <= output.puts <= 11


def test_the_last_lines_before_a_silence_are_stored_by_whoever_has_a_timer(output: Output) -> None:
    output.prints(b"one ")
    output.prints(b"two")
    output.shipper.pause()
    output.ship()
    output.clock.advance(EVERY)
    output.shipper.pause()
    output.ship()
    assert output.in_store() == b"one two"
    before = output.puts
    output.clock.advance(EVERY)
    output.shipper.pause()
    output.ship()
    assert output.puts == before


def test_at_the_end_everything_is_stored_at_once(output: Output) -> None:
    output.prints(b"one ")
    output.prints(b"last words")
    output.shipper.end()
    output.ship()
    assert output.in_store() == b"one last words"


def test_full_segments_are_stored_at_once_and_once(output: Output) -> None:
    data = random.Random(1).randbytes(3 * SEGMENT + 777)
    for at in range(0, len(data), 200_000):
        output.prints(data[at : at + 200_000])
        output.ship()
    assert len(output.in_store()) >= 3 * SEGMENT
    output.shipper.end()
    output.ship()
    assert output.in_store() == data
    assert sorted(output.store.objects)[:4] == [f"{RUN}/logs/00002/{n:06d}.log" for n in range(4)]
    assert output.puts <= 3 + 3 + 2


def test_what_comes_while_the_keeper_is_busy_costs_no_memory(output: Output) -> None:
    """Only numbers are handed over: an upload may take an hour."""
    for _ in range(40):
        output.prints(b"x" * (SEGMENT // 4))
    assert all(isinstance(size, int) for size in output.wanted)
    output.ship()
    assert output.logs.log_size(2) == 10 * SEGMENT


def test_a_failed_write_leaves_no_hole(output: Output) -> None:
    data = random.Random(2).randbytes(2 * SEGMENT + 5)
    output.prints(data)
    output.store.fail_once("put", ObjectStoreError("away"))
    with pytest.raises(ObjectStoreError):
        output.ship()
    output.stored.bring_up_to(len(data))
    assert output.in_store() == data


def test_an_agent_that_starts_again_stores_the_same_and_never_less(output: Output) -> None:
    data = random.Random(3).randbytes(SEGMENT + 5000)
    output.prints(data)
    output.shipper.end()
    output.ship()
    again = StoredOutput(output.logs, 2, output.path)
    shipper = LogShipper(output.clock, again.bring_up_to)
    for at in range(0, len(data), 100_000):
        shipper.chunk(at, data[at : at + 100_000])
        assert output.in_store() == data
    shipper.end()
    assert output.in_store() == data


def test_a_file_that_began_anew_is_stored_anew(output: Output) -> None:
    output.prints(b"a first try\n" * 100)
    output.shipper.end()
    output.ship()
    output.path.write_bytes(b"")
    output.size = 0
    output.prints(b"a second try\n")
    output.shipper.end()
    output.ship()
    assert output.in_store() == b"a second try\n"
