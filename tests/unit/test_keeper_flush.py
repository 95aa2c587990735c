"""The keeper at the end: the last look, the hurry of a notice, and what is given up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_agent.core import inputs
from runctl_agent.edges import committer, keeper
from runctl_agent.edges.late_store import LateStore
from runctl_agent.watcher.model import Candidate
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.messages.events import AttemptEnded
from runctl_testing.checkpoints import RUN, SPEC
from runctl_testing.keeping import Desk, Door, Last

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


class TestFlush:
    def test_everything_waiting_and_found_is_stored_oldest_first(self, desk: Desk) -> None:
        desk.keeper.flush(Last(desk, desk.saves(3), desk.saves(1), desk.saves(2)))
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1, 2, 3]

    def test_in_a_hurry_the_newest_alone_counts(self, desk: Desk) -> None:
        desk.keeper.hurry(True)
        desk.keeper.flush(Last(desk, desk.saves(1), desk.saves(3), desk.saves(2)))
        desk.hears(inputs.Flushed)
        assert desk.steps() == [3]
        assert len(desk.committed) == 3

    def test_in_a_hurry_the_next_older_one_is_better_than_none(self, desk: Desk, memory: MemoryStore) -> None:
        memory.fail_once("put_file", AWAY)
        desk.keeper.hurry(True)
        desk.keeper.flush(Last(desk, desk.saves(1), desk.saves(2)))
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1, 2]  # and the newest is tried again after it

    def test_it_does_not_end_before_what_failed_is_stored(self, desk: Desk, memory: MemoryStore) -> None:
        for _ in range(3):
            memory.fail_once("put_file", AWAY)
        found = [desk.saves(1)]
        desk.keeper.flush(lambda: [found.pop()] if found else [])  # handed over once only
        desk.hears(inputs.Flushed)
        assert desk.kinds() == ["NotStored", "Stored", "Flushed"]
        assert desk.steps() == [1]

    def test_what_changed_is_looked_at_again(self, desk: Desk) -> None:
        stale = desk.saves(1, "model.bin")
        fresh = desk.saves(2, "model.bin")
        looks = [[], [fresh], [stale]]
        desk.keeper.flush(lambda: looks.pop() if looks else [])
        desk.hears(inputs.Flushed)
        assert desk.steps() == [2]

    def test_with_nothing_to_store_it_says_so_at_once(self, desk: Desk) -> None:
        desk.keeper.hurry(True)
        desk.keeper.flush(list)
        desk.hears(inputs.Flushed)
        assert desk.kinds() == ["Flushed"]

    def test_what_comes_during_the_last_look_is_not_missed(self, desk: Desk) -> None:
        """The watcher may be checking one in that moment, and hands it over itself."""
        candidates, stuck = [desk.saves(1)], list[bool]()

        def last() -> list[Candidate]:
            for candidate in candidates:
                handing_over = threading.Thread(target=desk.keeper.add, args=(candidate,))
                handing_over.start()
                handing_over.join(5.0)
                stuck.append(handing_over.is_alive())
            candidates.clear()
            return []

        desk.keeper.flush(last)
        desk.hears(inputs.Flushed)
        assert stuck == [False], "nobody may have to wait for a look"
        assert desk.steps() == [1]

    def test_a_notice_in_the_midst_of_it_brings_the_newest_forward(
        self, desk: Desk, memory: MemoryStore
    ) -> None:
        door = Door(memory)
        desk.keeper.flush(Last(desk, *[desk.saves(step) for step in (1, 2, 3, 4)]))
        assert door.reached.wait(60)
        desk.keeper.hurry(True)
        door.open.set()
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1, 4]

    def test_when_the_notice_is_withdrawn_everything_counts_again(self, desk: Desk) -> None:
        desk.keeper.hurry(True)
        desk.keeper.hurry(False)
        desk.keeper.flush(Last(desk, desk.saves(1), desk.saves(2)))
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1, 2]

    def test_in_a_hurry_the_newest_that_waits_goes_first(self, desk: Desk, memory: MemoryStore) -> None:
        door = Door(memory)
        for step in (1, 2, 3):
            desk.keeper.add(desk.saves(step))
        assert door.reached.wait(60)
        desk.keeper.hurry(True)
        door.open.set()
        desk.hears(inputs.Stored, 2)
        desk.idle()
        assert desk.steps() == [1, 3]

    def test_a_look_that_fails_does_not_keep_back_what_waits(self, desk: Desk, memory: MemoryStore) -> None:
        memory.fail_once("put_file", AWAY)
        desk.keeper.add(desk.saves(1))
        desk.hears(inputs.NotStored)
        desk.keeper.add(desk.candidate("step-1.bin", 1))

        def broken() -> list[Candidate]:
            raise RuntimeError("a mistake")

        desk.keeper.flush(broken)
        desk.hears(inputs.Flushed)
        assert desk.steps() == [1]


class TestOver:
    """The last word is being said: what is stored after it, nobody counts with."""

    def test_what_is_under_way_is_given_up(self, desk: Desk, memory: MemoryStore) -> None:
        door = Door(memory)
        desk.keeper.flush(Last(desk, desk.saves(1), desk.saves(2)))
        assert door.reached.wait(60)
        desk.keeper.write_end(AttemptEnded(reason="interrupted"))
        door.open.set()
        desk.hears(inputs.EndRecorded)
        assert desk.steps() == []
        assert [key for key in memory.objects if "/data/" in key] == []
        assert "Stored" not in desk.kinds()

    def test_a_flush_that_waits_for_the_store_ends(
        self, desk: Desk, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(committer, "FIRST_WAIT", 1000.0)
        memory.fail_once("put_file", AWAY)
        desk.keeper.flush(Last(desk, desk.saves(1)))
        desk.hears(inputs.NotStored)
        desk.keeper.write_end(AttemptEnded(reason="interrupted"))
        desk.hears(inputs.EndRecorded)
        assert desk.steps() == []

    def test_nothing_more_is_stored(self, desk: Desk) -> None:
        desk.keeper.write_end(AttemptEnded(reason="interrupted"))
        desk.keeper.add(desk.saves(1))
        desk.keeper.flush(Last(desk, desk.saves(2)))
        desk.hears(inputs.Flushed)
        assert desk.steps() == []


class TestAStoreThatIsAway:
    """When the agent starts: its training may run, and goes on."""

    def test_what_is_saved_is_stored_when_it_comes_back(self, tmp_path: Path) -> None:
        made = RunRepository(DirectoryStore(tmp_path / "store"), RUN)
        made.write_spec(SPEC)
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        desk = Desk(LateStore(str(tmp_path / "store")), tmp_path, new=False)
        desk.keeper.retell(None)
        desk.keeper.add(desk.saves(1))
        assert "store" in desk.hears(inputs.NotStored).reason
        assert not (tmp_path / "store").exists()
        (tmp_path / "elsewhere").rename(tmp_path / "store")
        desk.keeper.add(desk.candidate("step-1.bin", 1))
        desk.hears(inputs.Stored)
        desk.close()
        assert desk.steps() == [1]

    def test_it_is_never_taken_for_an_empty_one(self, tmp_path: Path) -> None:
        desk = Desk(LateStore(str(tmp_path / "store")), tmp_path, new=False)
        desk.keeper.claim()
        assert not desk.hears(inputs.ClaimFailed).superseded
        desk.keeper.restore(lambda root: None)
        desk.hears(inputs.RestoreFailed)
        desk.close()
        assert desk.kinds() == ["ClaimFailed", "RestoreFailed"]
