"""The keeper: claiming the lineage, and bringing the newest checkpoint back into its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_agent.core import inputs
from runctl_agent.edges import committer, keeper
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.repository import RunRepository
from runctl_testing import checkpoints
from runctl_testing.checkpoints import RUN
from runctl_testing.keeping import Desk

AWAY = ObjectStoreError("the store is away")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (keeper, committer):
        monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.02)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repo(memory: MemoryStore, tmp_path: Path) -> RunRepository:
    """A run whose first attempt has stored steps 1 and 2."""
    repo = checkpoints.repository(memory)
    repo.claim(1, "agent-abcd1234-1", None, 0.0)
    for step in (1, 2):
        checkpoints.commit(repo, tmp_path / "first", step)
    return repo


@pytest.fixture
def desk(memory: MemoryStore, tmp_path: Path) -> Iterator[Desk]:
    """The second attempt."""
    desk = Desk(memory, tmp_path, 2)
    yield desk
    desk.close()


class TestClaim:
    def test_the_first_attempt_begins_at_the_beginning(self, desk: Desk) -> None:
        desk.keeper.claim()
        assert desk.hears(inputs.Claimed).parent is None

    def test_it_names_the_newest_that_may_be_restored(self, repo: RunRepository, desk: Desk) -> None:
        newest = repo.eligible()[0].name
        desk.keeper.claim()
        assert desk.hears(inputs.Claimed).parent == newest
        assert repo.claims()[2].parent == newest

    def test_an_agent_that_died_after_claiming_holds_the_same_claim(
        self, repo: RunRepository, desk: Desk, tmp_path: Path
    ) -> None:
        desk.keeper.claim()
        first = desk.hears(inputs.Claimed).parent
        desk.start().claim()
        assert desk.hears(inputs.Claimed, 2).parent == first
        checkpoints.commit(repo, tmp_path / "second", 9, attempt=2)
        desk.start().claim()  # with its own commits already there
        assert desk.hears(inputs.Claimed, 3).parent == first

    def test_one_that_a_newer_attempt_has_overtaken_is_told_so(
        self, repo: RunRepository, desk: Desk, tmp_path: Path
    ) -> None:
        """Also when that one has committed already: its checkpoints are no parents of ours."""
        repo.claim(3, "agent-abcd1234-3", repo.eligible()[0].name, 0.0)
        checkpoints.commit(repo, tmp_path / "third", 5, attempt=3)
        desk.keeper.claim()
        failed = desk.hears(inputs.ClaimFailed)
        assert failed.superseded
        assert "3" in failed.detail

    def test_a_passing_outage_is_waited_out(self, desk: Desk, memory: MemoryStore) -> None:
        for _ in range(keeper.TRIES - 1):
            memory.fail_once("list", AWAY)
        desk.keeper.claim()
        desk.hears(inputs.Claimed)
        assert desk.kinds() == ["Claimed"]

    def test_a_long_one_is_no_sign_of_another_attempt(self, desk: Desk, memory: MemoryStore) -> None:
        for _ in range(keeper.TRIES):
            memory.fail_once("list", AWAY)
        desk.keeper.claim()
        failed = desk.hears(inputs.ClaimFailed)
        assert (failed.superseded, failed.detail) == (False, "the store is away")

    def test_an_empty_store_is_a_wrong_one(self, desk: Desk, memory: MemoryStore) -> None:
        memory.objects.clear()
        desk.keeper.claim()
        failed = desk.hears(inputs.ClaimFailed)
        assert not failed.superseded
        assert RUN in failed.detail

    def test_a_damaged_claim_is_told(self, repo: RunRepository, desk: Desk, memory: MemoryStore) -> None:
        memory.objects[f"{RUN}/attempts/00001.json"] = b"{"
        desk.keeper.claim()
        assert not desk.hears(inputs.ClaimFailed).superseded

    def test_a_mistake_of_ours_leaves_nobody_waiting(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(desk.repository, "claim", lambda *args: 1 // 0)
        desk.keeper.claim()
        assert desk.hears(inputs.ClaimFailed).detail == "the agent failed: ZeroDivisionError"


class TestRestore:
    def restored(self, desk: Desk) -> inputs.Restored:
        ignored: list[str] = []
        before = sum(isinstance(item, inputs.Restored) for item in desk.said)
        desk.keeper.restore(ignored.append)
        found = desk.hears(inputs.Restored, before + 1)
        assert ignored == ([] if found.path is None else [Path(found.path).name])
        return found

    def test_with_nothing_to_restore_it_says_so(self, desk: Desk) -> None:
        assert self.restored(desk).manifest is None

    def test_the_newest_lies_under_its_own_name_in_the_checkpoint_folder(
        self, repo: RunRepository, desk: Desk
    ) -> None:
        found = self.restored(desk)
        assert found.path == str(desk.place.checkpoints / "checkpoint-2")
        assert (found.step, found.damaged) == (2, ())
        assert checkpoints.is_whole(Path(found.path), 2)

    def test_again_after_a_crash_over_what_is_there(self, repo: RunRepository, desk: Desk) -> None:
        self.restored(desk)
        (desk.place.checkpoints / "checkpoint-2" / "half").write_bytes(b"of something else")
        assert checkpoints.is_whole(Path(self.restored(desk).path or ""), 2)

    def test_a_link_in_its_place_is_replaced_and_not_followed(
        self, repo: RunRepository, desk: Desk, tmp_path: Path
    ) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "precious").write_bytes(b"mine")
        (desk.place.checkpoints / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
        desk.keeper.restore(lambda root: None)
        answer = desk.hears(inputs.Input)
        assert (tmp_path / "elsewhere" / "precious").read_bytes() == b"mine"
        assert isinstance(answer, inputs.Restored)
        assert checkpoints.is_whole(desk.place.checkpoints / "checkpoint-2", 2)

    def test_a_damaged_one_is_passed_over_and_named(
        self, repo: RunRepository, desk: Desk, memory: MemoryStore
    ) -> None:
        newest = repo.eligible()[0]
        key = next(k for k in memory.objects if newest.id in k and k.endswith("model.bin"))
        memory.objects[key] = b"x" * len(memory.objects[key])
        found = self.restored(desk)
        assert found.step == 1
        assert len(found.damaged) == 1
        assert newest.name in found.damaged[0]

    def test_if_all_are_damaged_it_does_not_begin_anew(
        self, repo: RunRepository, desk: Desk, memory: MemoryStore
    ) -> None:
        for key in memory.objects:
            if key.endswith("model.bin"):
                memory.objects[key] = b""
        desk.keeper.restore(lambda root: None)
        assert "All 2 checkpoints are damaged" in desk.hears(inputs.RestoreFailed).detail

    def test_a_single_file_is_put_in_place_too(self, memory: MemoryStore, tmp_path: Path, desk: Desk) -> None:
        first = Desk(memory, tmp_path, 1)
        first.keeper.claim()
        first.keeper.add(first.saves(4))
        first.idle()
        first.close()
        (desk.place.checkpoints / "step-4.bin").mkdir()  # whatever it is, it is not the checkpoint
        found = self.restored(desk)
        assert found.path == str(desk.place.checkpoints / "step-4.bin")
        assert Path(found.path).read_bytes().startswith(b"weights of 4")

    def test_a_passing_outage_is_waited_out(
        self, repo: RunRepository, desk: Desk, memory: MemoryStore
    ) -> None:
        memory.fail_once("get_file", AWAY)
        memory.fail_once("list", AWAY)
        assert self.restored(desk).step == 2

    def test_an_outage_is_no_proof_that_there_is_nothing(
        self, repo: RunRepository, desk: Desk, memory: MemoryStore
    ) -> None:
        for _ in range(keeper.TRIES):
            memory.fail_once("list", AWAY)
        desk.keeper.restore(lambda root: None)
        assert desk.hears(inputs.RestoreFailed).detail == "the store is away"
