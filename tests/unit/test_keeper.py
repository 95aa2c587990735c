"""The keeper: what it stores, in which order, and what it does when the store fails it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runctl_agent.core import inputs
from runctl_agent.edges import keeper
from runctl_agent.watcher.model import Candidate
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.logs import SEGMENT
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStore, ObjectStoreError, StoreFull
from runctl_shared.messages.events import AttemptEnded
from runctl_testing.keeping import EPOCH, Desk

AWAY = ObjectStoreError("the store is away")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between tries are made short: what is tested is that there is another try."""
    monkeypatch.setattr(keeper, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(keeper, "LONGEST_WAIT", 0.02)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def desk(memory: MemoryStore, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(memory, tmp_path)
    yield desk
    desk.close()


@pytest.fixture(params=["memory", "directory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return MemoryStore() if request.param == "memory" else DirectoryStore(tmp_path / "store")


class Last:
    """What the watcher finds when it looks once more: each version until it is committed."""

    def __init__(self, desk: Desk, *candidates: Candidate) -> None:
        self._desk, self.candidates = desk, list(candidates)

    def __call__(self) -> list[Candidate]:
        return [c for c in self.candidates if c.version not in self._desk.committed]


class TestCommitting:
    def test_what_is_complete_is_stored_and_said(self, any_store: ObjectStore, tmp_path: Path) -> None:
        desk = Desk(any_store, tmp_path)
        candidate = desk.saves(7)
        desk.keeper.add(candidate)
        stored = desk.hears(inputs.Stored)
        desk.close()
        (manifest,) = desk.stored()
        assert (stored.manifest, stored.step, stored.size, stored.files) == (
            manifest.name,
            7,
            manifest.size,
            1,
        )
        assert (stored.wall, stored.format) == (EPOCH + 7, "generic")
        assert (manifest.root, manifest.single_file, manifest.attempt) == ("step-7.bin", True, 1)
        assert desk.committed == [candidate.version]

    def test_in_the_order_of_coming_with_numbers_that_rise(self, desk: Desk) -> None:
        for step in (1, 2, 3):
            desk.keeper.add(desk.saves(step))
        desk.hears(inputs.Stored, 3)
        assert [(m.sequence, m.step) for m in desk.stored()] == [(1, 1), (2, 2), (3, 3)]

    def test_without_a_step_of_its_own_it_gets_the_last_that_was_reported_by_then(self, desk: Desk) -> None:
        candidate = msgspec.structs.replace(desk.saves(42), step=None)
        desk.keeper.add(candidate)
        assert desk.hears(inputs.Stored).step == 42

    def test_one_that_changed_meanwhile_is_given_back_and_not_stored(self, desk: Desk) -> None:
        stale = desk.saves(1, "model.bin")
        fresh = desk.saves(2, "model.bin")
        desk.keeper.add(stale)
        desk.idle()
        assert desk.discarded == [(stale.version, 0.0)]
        assert "NotStored" not in desk.kinds()
        desk.keeper.add(fresh)
        desk.idle()
        assert desk.steps() == [2]

    def test_a_failing_store_is_told_and_the_version_comes_back_later(
        self, desk: Desk, memory: MemoryStore
    ) -> None:
        candidate = desk.saves(1)
        memory.fail_once("put_file", StoreFull("no room"))
        desk.keeper.add(candidate)
        failed = desk.hears(inputs.NotStored)
        assert (failed.root, failed.reason) == ("step-1.bin", "no room")
        desk.keeper.add(candidate)
        desk.hears(inputs.Stored)
        assert desk.discarded[0][0] == candidate.version
        assert desk.discarded[0][1] > 0
        assert desk.steps() == [1]

    def test_what_can_never_be_stored_is_told_once_and_never_tried_again(self, desk: Desk) -> None:
        odd = msgspec.structs.replace(desk.saves(1), step=10**12)
        desk.keeper.flush(Last(desk, odd), False)
        desk.hears(inputs.Flushed)
        assert desk.kinds() == ["NotStored", "Flushed"]
        assert desk.committed == [odd.version]
        assert desk.steps() == []

    def test_a_lost_answer_costs_a_second_copy_and_never_the_order(
        self, desk: Desk, memory: MemoryStore
    ) -> None:
        """The manifest is stored, the answer is not heard: the next commit must not take its number."""
        real = memory.put

        def put(key: str, data: bytes, *, if_absent: bool = False) -> None:
            real(key, data, if_absent=if_absent)
            if key.startswith("run-abcd1234/manifests/"):
                memory.put = real  # type: ignore[method-assign]  # once
                raise AWAY

        memory.put = put  # type: ignore[method-assign]  # a store that fails after the fact
        candidate = desk.saves(1)
        desk.keeper.flush(Last(desk, candidate), False)
        desk.hears(inputs.Flushed)
        desk.keeper.add(desk.saves(2))
        desk.idle()
        assert [(m.sequence, m.step) for m in desk.stored()] == [(1, 1), (2, 1), (3, 2)]


class TestOrder:
    def test_an_older_one_never_counts_as_newest(self, desk: Desk) -> None:
        """A retried older one comes after the newer one is safe: stored now, it would be restored."""
        older, newer = desk.saves(1), desk.saves(2)
        desk.keeper.add(newer)
        desk.keeper.add(older)
        desk.idle()
        assert desk.steps() == [2]
        assert desk.committed == [newer.version, older.version]

    def test_a_newer_one_overtakes_one_that_failed(self, desk: Desk, memory: MemoryStore) -> None:
        older, newer = desk.saves(1), desk.saves(2)
        memory.fail_once("put_file", AWAY)
        desk.keeper.add(older)
        desk.keeper.add(newer)
        desk.keeper.add(older)
        desk.idle()
        assert desk.steps() == [2]

    def test_the_same_holds_after_a_restart_of_the_agent(self, desk: Desk) -> None:
        older, newer = desk.saves(1), desk.saves(2)
        desk.keeper.add(newer)
        desk.idle()
        desk.start()
        desk.keeper.add(older)
        desk.keeper.add(desk.saves(3))
        desk.idle()
        assert [(m.sequence, m.step) for m in desk.stored()] == [(1, 2), (2, 3)]

    def test_times_before_1970_are_times(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(1, written_at=-1000.0))
        desk.idle()
        assert desk.steps() == [1]

    def test_another_attempts_numbers_are_its_own(self, memory: MemoryStore, tmp_path: Path) -> None:
        first = Desk(memory, tmp_path, 1)
        first.keeper.add(first.saves(5))
        first.idle()
        second = Desk(memory, tmp_path, 2)
        second.keeper.add(second.saves(1))  # it began anew: lower, older, and its own
        second.idle()
        first.close()
        second.close()
        assert [(m.attempt, m.sequence) for m in second.stored()] == [(1, 1), (2, 1)]


class TestFlush:
    def test_everything_waiting_and_found_is_stored_oldest_first(self, desk: Desk) -> None:
        desk.keeper.flush(Last(desk, desk.saves(3), desk.saves(1), desk.saves(2)), False)
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1, 2, 3]

    def test_in_a_hurry_the_newest_alone_counts(self, desk: Desk) -> None:
        desk.keeper.flush(Last(desk, desk.saves(1), desk.saves(3), desk.saves(2)), True)
        desk.hears(inputs.Flushed)
        assert desk.steps() == [3]
        assert len(desk.committed) == 3

    def test_in_a_hurry_the_next_older_one_is_better_than_none(self, desk: Desk, memory: MemoryStore) -> None:
        memory.fail_once("put_file", AWAY)
        desk.keeper.flush(Last(desk, desk.saves(1), desk.saves(2)), True)
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1, 2]  # and the newest is tried again after it

    def test_it_does_not_end_before_what_failed_is_stored(self, desk: Desk, memory: MemoryStore) -> None:
        for _ in range(3):
            memory.fail_once("put_file", AWAY)
        found = [desk.saves(1)]
        desk.keeper.flush(lambda: [found.pop()] if found else [], False)  # handed over once only
        desk.hears(inputs.Flushed)
        assert desk.kinds() == ["NotStored"] * 3 + ["Stored", "Flushed"]
        assert desk.steps() == [1]

    def test_what_changed_is_looked_at_again(self, desk: Desk) -> None:
        stale = desk.saves(1, "model.bin")
        fresh = desk.saves(2, "model.bin")
        looks = [[], [fresh], [stale]]
        desk.keeper.flush(lambda: looks.pop() if looks else [], False)
        desk.hears(inputs.Flushed)
        assert desk.steps() == [2]

    def test_with_nothing_to_store_it_says_so_at_once(self, desk: Desk) -> None:
        desk.keeper.flush(list, True)
        desk.hears(inputs.Flushed)
        assert desk.kinds() == ["Flushed"]


class TestRetelling:
    def test_what_was_stored_and_not_heard_of_is_said_again(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(3))
        first = desk.hears(inputs.Stored)
        desk.start().retell(None)
        again = desk.hears(inputs.Stored, 2)
        assert (again.manifest, again.step, again.wall) == (first.manifest, 3, EPOCH + 3)
        assert again.written_at == pytest.approx(first.written_at, abs=30.0)

    def test_what_the_core_knows_is_not_said_again(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(3))
        known = desk.hears(inputs.Stored).written_at
        desk.start().retell(known)
        desk.idle()
        assert desk.kinds() == ["Stored", "Flushed"]

    def test_with_nothing_stored_there_is_nothing_to_say(self, desk: Desk, memory: MemoryStore) -> None:
        memory.fail_once("list", AWAY)
        desk.keeper.retell(None)
        desk.idle()
        assert desk.kinds() == ["Flushed"]


class TestOutputAndLastWord:
    def test_the_output_is_stored_as_far_as_it_was_asked_for(self, desk: Desk) -> None:
        data = b"0123456789abcdef" * (SEGMENT // 16) + b"tail"
        desk.place.output.write_bytes(data)
        desk.keeper.write_log(len(data))
        desk.idle()
        assert desk.repository.logs.read_log(1, 0, 2 * SEGMENT) == data

    def test_output_that_could_not_be_stored_goes_with_the_last_word(
        self, desk: Desk, memory: MemoryStore
    ) -> None:
        desk.place.output.write_bytes(b"last words")
        memory.fail_once("put", AWAY)
        desk.keeper.write_log(10)
        desk.keeper.write_end(AttemptEnded(reason="stopped"))
        desk.hears(inputs.EndRecorded)
        assert desk.repository.logs.read_log(1, 0, 100) == b"last words"

    def test_the_last_word_is_tried_again(self, desk: Desk, memory: MemoryStore) -> None:
        for _ in range(3):
            memory.fail_once("put", AWAY)
        desk.keeper.write_end(AttemptEnded(reason="interrupted", detail="x" * 5000 + "\udcff"))
        desk.hears(inputs.EndRecorded)
        data = desk.repository.read_end(1)
        assert data is not None
        assert msgspec.json.decode(data, type=AttemptEnded).reason == "interrupted"

    def test_if_it_cannot_be_stored_nobody_waits_for_ever(self, desk: Desk, memory: MemoryStore) -> None:
        for _ in range(keeper.TRIES):
            memory.fail_once("put", AWAY)
        desk.keeper.write_end(AttemptEnded(reason="stopped"))
        desk.idle()
        assert "EndRecorded" not in desk.kinds()


def test_a_mistake_in_one_job_does_not_end_the_others(desk: Desk) -> None:
    def broken() -> list[Candidate]:
        raise RuntimeError("a mistake")

    desk.keeper.flush(broken, False)
    desk.keeper.add(desk.saves(1))
    assert desk.hears(inputs.Stored).step == 1
