"""The keeper: what it stores, in which order, and what it does when the store fails it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runctl_agent.core import inputs
from runctl_agent.edges import committer, keeper
from runctl_agent.watcher.model import Candidate
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.logs import SEGMENT
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStore, ObjectStoreError, StoreFull
from runctl_shared.messages.events import AttemptEnded
from runctl_testing.eventually import eventually
from runctl_testing.keeping import EPOCH, Desk, Last

AWAY = ObjectStoreError("the store is away")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits between tries are made short: what is tested is that there is another try."""
    for module in (keeper, committer):
        monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.02)


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
        desk.keeper.flush(Last(desk, odd))
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
        desk.keeper.flush(Last(desk, candidate))
        desk.hears(inputs.Flushed)
        desk.keeper.add(desk.saves(2))
        desk.idle()
        assert [(m.sequence, m.step) for m in desk.stored()] == [(1, 1), (2, 1), (3, 2)]


class TestOrder:
    def test_clocks_that_are_set_back_keep_nothing_from_being_stored(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(1, written_at=EPOCH + 1e6))  # or one file that is dated ahead
        for step in (2, 3):
            desk.keeper.add(desk.saves(step))
        desk.idle()
        assert desk.steps() == [1, 2, 3]

    def test_the_same_after_a_restart_of_the_agent(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(1, written_at=EPOCH + 1e6))
        desk.idle()
        desk.start()
        desk.keeper.add(desk.saves(2))
        unknown = msgspec.structs.replace(desk.saves(3), step=None)
        desk.keeper.add(unknown)
        desk.idle()
        assert desk.steps() == [1, 2, 3]

    def test_what_is_not_stored_because_a_newer_one_is_leaves_a_trace(
        self, desk: Desk, memory: MemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        older, newer = desk.saves(1), desk.saves(2)
        memory.fail_once("put_file", AWAY)
        with caplog.at_level("INFO", "runctl.keeper"):
            for candidate in (older, newer, older):
                desk.keeper.add(candidate)
            desk.idle()
        assert desk.steps() == [2]
        assert desk.committed == [newer.version, older.version]
        assert "checkpoint.superseded root='step-1.bin'" in caplog.text

    def test_one_that_looks_like_what_was_stored_is_stored_again(self, desk: Desk) -> None:
        """Another file of the same size and time: the watcher, who knows the inodes, hands it over."""
        first = desk.saves(1)
        for candidate in (first, desk.saves(2), first):
            desk.keeper.add(candidate)
        desk.idle()
        assert desk.steps() == [1, 2, 1]

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


class TestFailures:
    def test_it_comes_back_later_each_time_and_is_told_once(self, desk: Desk, memory: MemoryStore) -> None:
        candidate = desk.saves(1)
        for number in range(9):
            memory.fail_once("put_file", StoreFull("no room") if number == 6 else AWAY)
            desk.keeper.add(candidate)
        eventually(lambda: len(desk.discarded) == 9)
        told = [item.reason for item in desk.said if isinstance(item, inputs.NotStored)]
        assert told == ["the store is away", "no room", "the store is away"]
        assert [wait for _, wait in desk.discarded] == [10, 20, 40, 80, 160, 300, 300, 300, 300]

    def test_each_version_has_its_own_patience(self, desk: Desk, memory: MemoryStore) -> None:
        for step in (1, 2):
            memory.fail_once("put_file", AWAY)
            desk.keeper.add(desk.saves(step))
        eventually(lambda: len(desk.discarded) == 2)
        assert [wait for _, wait in desk.discarded] == [10, 10]

    def test_a_reason_that_names_the_try_is_no_news(self, desk: Desk, memory: MemoryStore) -> None:
        def put_file(key: str, path: Path) -> tuple[int, str]:
            raise ObjectStoreError(f"cannot write {key}")

        memory.put_file = put_file  # type: ignore[method-assign]  # a store that names what it cannot write
        candidate = desk.saves(1)
        for _ in range(3):
            desk.keeper.add(candidate)
        eventually(lambda: len(desk.discarded) == 3)
        assert desk.kinds() == ["NotStored"]

    def test_a_mistake_of_ours_is_a_failure_like_any_other(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(desk.repository, "commit", lambda *args: 1 // 0)
            desk.keeper.add(desk.saves(1))
            desk.hears(inputs.NotStored)
        desk.keeper.add(desk.candidate("step-1.bin", 1))
        desk.hears(inputs.Stored)


class TestRetelling:
    def test_what_was_stored_and_not_heard_of_is_said_again(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(3))
        first = desk.hears(inputs.Stored)
        desk.start().retell(None)
        again = desk.hears(inputs.Stored, 2)
        assert (again.manifest, again.step, again.wall) == (first.manifest, 3, EPOCH + 3)
        assert again.written_at == pytest.approx(first.written_at, abs=30.0)

    def test_all_that_the_core_does_not_know_is_said_in_order(self, desk: Desk) -> None:
        for step in (3, 4, 5):
            desk.keeper.add(desk.saves(step))
        desk.hears(inputs.Stored, 3)
        first = desk.stored()[0].name
        desk.said.clear()
        desk.start().retell(first)
        desk.idle()
        assert [item.step for item in desk.said if isinstance(item, inputs.Stored)] == [4, 5]

    def test_what_the_core_knows_is_not_said_again(self, desk: Desk) -> None:
        desk.keeper.add(desk.saves(3))
        known = desk.hears(inputs.Stored).manifest
        desk.start().retell(known)
        desk.idle()
        assert desk.kinds() == ["Stored", "Flushed"]

    def test_a_store_that_is_away_for_long_keeps_nothing_secret(
        self, desk: Desk, memory: MemoryStore
    ) -> None:
        desk.keeper.add(desk.saves(3))
        desk.hears(inputs.Stored)
        desk.said.clear()
        for _ in range(keeper.TRIES):
            memory.fail_once("list", AWAY)
        desk.start().retell(None)
        desk.idle()
        assert desk.kinds() == ["Flushed"]
        desk.keeper.add(desk.saves(4))
        desk.hears(inputs.Stored, 2)
        assert [item.step for item in desk.said if isinstance(item, inputs.Stored)] == [3, 4]

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

    desk.keeper.flush(broken)
    desk.keeper.add(desk.saves(1))
    assert desk.hears(inputs.Stored).step == 1
