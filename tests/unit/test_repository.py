"""A run's part of the store: spec, claims, commits, final records, logs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runctl_shared.checkpoints.logs import SEGMENT
from runctl_shared.checkpoints.manifest import Claim, ManifestDamaged, data_key, manifest_name
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import AlreadyExists, ObjectStoreError, StoreFull, StoreRefused
from runctl_shared.checkpoints.repository import ClaimRefused, RunRepository
from runctl_shared.checkpoints.upload import ChangedDuringUpload, Stopped, snapshot
from runctl_shared.clock import FakeClock
from runctl_testing.checkpoints import RUN, SPEC, commit, contents, draft, repository, write

PARENT = manifest_name(1, 4, 40, "ck-1a")


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repo(store: MemoryStore) -> RunRepository:
    return repository(store)


def data_of(store: MemoryStore) -> list[str]:
    return [key for key in store.objects if "/data/" in key]


class TestSpec:
    def test_there_and_back(self, repo: RunRepository, store: MemoryStore) -> None:
        repo.write_spec(SPEC)
        assert repo.read_spec() == SPEC
        assert list(store.objects) == [f"{RUN}/run.json"]

    def test_another_spec_is_not_written_over_it(self, repo: RunRepository) -> None:
        with pytest.raises(AlreadyExists):
            repo.write_spec(msgspec.structs.replace(SPEC, name="another"))
        assert repo.read_spec() == SPEC

    @pytest.mark.parametrize("data", [b"", b"[]", b"{}", msgspec.json.encode(SPEC).replace(b"abcd", b"dcba")])
    def test_damage_is_damage(self, repo: RunRepository, store: MemoryStore, data: bytes) -> None:
        store.put(f"{RUN}/run.json", data)
        with pytest.raises(ManifestDamaged):
            repo.read_spec()

    def test_an_empty_store_proves_nothing(self) -> None:
        """A folder whose file system is not mounted: to begin at step 0 there would lose the run."""
        unmounted = RunRepository(MemoryStore(), RUN)
        for call in (
            unmounted.read_spec,
            unmounted.eligible,
            unmounted.manifests,
            lambda: unmounted.claim(1, "agent-1-1", None, 0),
            lambda: unmounted.read_end(1),
        ):
            with pytest.raises(StoreRefused, match="nothing of run-abcd1234") as refused:
                call()
            assert refused.value.mend

    def test_nothing_is_put_where_the_run_is_not(self, tmp_path: Path) -> None:
        """What is put into an empty mount point is gone when the file system comes back over it."""
        empty = MemoryStore()
        unmounted = RunRepository(empty, RUN)
        for call in (
            lambda: commit(unmounted, tmp_path, 7),
            lambda: unmounted.write_end(1, b"{}"),
            lambda: unmounted.logs.append_segment(1, 0, b"printed"),
        ):
            with pytest.raises(StoreRefused, match="nothing of run-abcd1234"):
                call()
        assert not empty.objects

    def test_a_store_that_goes_away_during_an_upload_has_no_checkpoint(self, tmp_path: Path) -> None:
        """Nor has the empty folder in its place anything that would be taken for one."""

        def unmounted() -> None:
            del leaving.objects[f"{RUN}/run.json"]

        leaving = Meddling(unmounted)
        repo = repository(leaving)
        with pytest.raises(StoreRefused, match="nothing of run-abcd1234"):
            commit(repo, tmp_path, 7)
        assert not leaving.objects


class TestClaims:
    def test_a_claim_is_kept_and_may_be_repeated(self, repo: RunRepository) -> None:
        mine = repo.claim(2, "agent-a-2", PARENT, 10.0)
        assert mine == Claim(run=RUN, attempt=2, agent="agent-a-2", parent=PARENT, claimed_at=10.0)
        # After a crash the agent may have another idea of what to start from; what is stored holds.
        assert repo.claim(2, "agent-a-2", None, 20.0) == mine
        assert repo.claims() == {2: mine}

    def test_anothers_claim_is_in_the_way(self, repo: RunRepository) -> None:
        repo.claim(2, "agent-a-2", None, 10.0)
        with pytest.raises(ClaimRefused, match=r"Attempt 2 of .* is claimed by agent-a-2") as refused:
            repo.claim(2, "agent-b-2", None, 20.0)
        assert refused.value.holder.agent == "agent-a-2"

    def test_another_installation_is_not_the_same_agent(self, repo: RunRepository) -> None:
        """Two that resume the same run, which one has imported from the other, and both call it attempt 2."""
        mine = repo.claim(2, "agent-a-2", None, 10.0, "inst-aaaa")
        with pytest.raises(ClaimRefused, match="by agent-a-2 of installation inst-aaaa"):
            repo.claim(2, "agent-a-2", None, 20.0, "inst-bbbb")
        assert repo.claim(2, "agent-a-2", None, 30.0, "inst-aaaa") == mine

    def test_a_newer_claim_is_in_the_way_even_of_the_holder(self, repo: RunRepository) -> None:
        repo.claim(2, "agent-a-2", None, 10.0)
        repo.claim(3, "agent-a-3", None, 20.0)
        for attempt in (1, 2):
            with pytest.raises(ClaimRefused, match="Attempt 3"):
                repo.claim(attempt, f"agent-a-{attempt}", None, 30.0)
        assert sorted(repo.claims()) == [2, 3]

    def test_a_newer_claim_between_the_look_and_the_put(self) -> None:
        class Overtaken(MemoryStore):
            def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
                super().put(key, data, if_absent=if_absent)
                if key.endswith("attempts/00002.json"):
                    RunRepository(self, RUN).claim(3, "agent-a-3", None, 0.0)

        with pytest.raises(ClaimRefused, match="Attempt 3"):
            repository(Overtaken()).claim(2, "agent-a-2", None, 0.0)

    @pytest.mark.parametrize("parent", ["", "ck-1a", "../x", manifest_name(2, 1, 1, "ck-1")])
    def test_a_parent_that_lineage_would_not_follow(self, repo: RunRepository, parent: str) -> None:
        with pytest.raises(ValueError, match="cannot be the parent"):
            repo.claim(2, "agent-a-2", parent, 0.0)
        assert repo.claims() == {}

    @pytest.mark.parametrize("attempt", [-1, 100_000])
    def test_an_attempt_that_no_listing_would_show(self, repo: RunRepository, attempt: int) -> None:
        with pytest.raises(ValueError, match="no attempt"):
            repo.claim(attempt, "agent-a-2", None, 0.0)

    def test_a_damaged_claim_is_not_passed_over(self, repo: RunRepository, store: MemoryStore) -> None:
        """Without it nobody knows the lineage; the one before it would be the wrong one."""
        repo.claim(1, "agent-a-1", None, 0.0)
        for damage in (
            b"",
            msgspec.json.encode({"run": "run-other", "attempt": 2, "agent": "a", "parent": None}),
        ):
            store.put(f"{RUN}/attempts/00002.json", damage)
            with pytest.raises(ManifestDamaged):
                repo.eligible()

    def test_what_is_eligible(self, repo: RunRepository, tmp_path: Path) -> None:
        repo.claim(1, "agent-a-1", None, 0.0)
        first = commit(repo, tmp_path, 10, attempt=1)
        repo.claim(2, "agent-a-2", first.name, 0.0)
        late = commit(repo, tmp_path, 20, attempt=1)
        second = commit(repo, tmp_path, 15, attempt=2)
        assert [parts.name for parts in repo.manifests()] == [first.name, late.name, second.name]
        assert [parts.name for parts in repo.eligible()] == [second.name, first.name]


class TestCommit:
    def test_it_is_what_was_there(self, store: MemoryStore, tmp_path: Path) -> None:
        clock = FakeClock(500.0)
        repo = repository(store, clock)
        files = write(tmp_path, 7)
        made = repo.commit(draft(7), tmp_path, files)
        assert repo.read_manifest(made.name) == made
        assert (made.run, made.step, made.committed_at) == (RUN, 7, 500.0)
        assert {file.path: file.mtime_ns for file in made.files} == {f.path: f.mtime_ns for f in files}
        stored = {path: store.objects[f"{RUN}/{data_key(made.id, path)}"] for path in contents(7)}
        assert stored == contents(7)
        assert repo.verify(made) == []

    def test_the_manifest_comes_last_and_once(
        self, repo: RunRepository, store: MemoryStore, tmp_path: Path
    ) -> None:
        made = commit(repo, tmp_path, 7)
        puts = [key for call, key in store.calls if call.startswith("put")][1:]
        assert [("/data/" in key) for key in puts] == [True] * 4 + [False]
        with pytest.raises(AlreadyExists, match=made.id):
            commit(repo, tmp_path, 7)
        with pytest.raises(AlreadyExists):  # the same data would be replaced under a committed manifest
            repo.commit(draft(8, checkpoint=made.id), tmp_path, write(tmp_path, 8))
        assert len(data_of(store)) == 4
        assert repo.verify(made) == []

    def test_the_same_sequence_of_another_attempt_is_another(
        self, repo: RunRepository, tmp_path: Path
    ) -> None:
        commit(repo, tmp_path, 7, attempt=1)
        commit(repo, tmp_path, 7, attempt=2)
        assert len(repo.manifests()) == 2

    @pytest.mark.parametrize("change", ["append", "in place", "replace", "remove", "touch"])
    def test_what_changes_during_the_upload_is_discarded(self, tmp_path: Path, change: str) -> None:
        store = Meddling(lambda: CHANGES[change](tmp_path / "checkpoint-7" / "model.bin"))
        repo = repository(store)
        with pytest.raises(ChangedDuringUpload, match=r"model\.bin"):
            commit(repo, tmp_path, 7)
        assert repo.manifests() == []
        assert data_of(store) == []

    def test_what_changed_before_the_upload_is_discarded(self, repo: RunRepository, tmp_path: Path) -> None:
        files = write(tmp_path, 7)
        (tmp_path / "checkpoint-7" / "sub" / "optimizer.bin").unlink()
        with pytest.raises(ChangedDuringUpload, match=r"optimizer\.bin"):
            repo.commit(draft(7), tmp_path, files)
        assert repo.manifests() == []

    @pytest.mark.parametrize("after", range(5))
    def test_it_can_be_stopped(
        self, repo: RunRepository, store: MemoryStore, tmp_path: Path, after: int
    ) -> None:
        answers = iter([False] * after + [True])
        with pytest.raises(Stopped):
            commit(repo, tmp_path, 7, should_stop=lambda: next(answers))
        assert (repo.manifests(), data_of(store)) == ([], [])

    def test_a_full_store_keeps_nothing(
        self, repo: RunRepository, store: MemoryStore, tmp_path: Path
    ) -> None:
        store.fail_once("put_file", StoreFull("full"))
        with pytest.raises(StoreFull):
            commit(repo, tmp_path, 7)
        assert (repo.manifests(), data_of(store)) == ([], [])

    def test_a_store_that_fails_twice_says_the_first(
        self, repo: RunRepository, store: MemoryStore, tmp_path: Path
    ) -> None:
        store.fail_once("put_file", StoreFull("full"))
        store.fail_once("delete", ObjectStoreError("gone"))
        with pytest.raises(StoreFull):
            commit(repo, tmp_path, 7)

    def test_data_stays_when_the_manifest_may_have_been_stored(self, tmp_path: Path) -> None:
        class AnswerLost(MemoryStore):
            def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
                super().put(key, data, if_absent=if_absent)
                if "/manifests/" in key:
                    raise ObjectStoreError("timed out")

        repo = repository(AnswerLost())
        with pytest.raises(ObjectStoreError, match="timed out"):
            commit(repo, tmp_path, 7)
        (stored,) = repo.manifests()
        assert repo.verify(repo.read_manifest(stored.name)) == []

    def test_what_could_not_be_found_again_is_refused(self, repo: RunRepository, tmp_path: Path) -> None:
        files = write(tmp_path, 7)
        good = draft(7)
        for bad in (
            msgspec.structs.replace(good, step=-1),
            msgspec.structs.replace(good, step=10**12 - 1),
            msgspec.structs.replace(good, sequence=10**6),
            msgspec.structs.replace(good, attempt=10**5),
            msgspec.structs.replace(good, id="ck-../x"),
            msgspec.structs.replace(good, root="elsewhere"),
        ):
            with pytest.raises(ValueError, match="checkpoint"):
                repo.commit(bad, tmp_path, files)
        with pytest.raises(ValueError, match="no files"):
            repo.commit(good, tmp_path, ())
        assert repo.manifests() == []

    def test_verify_names_every_damage(self, repo: RunRepository, store: MemoryStore, tmp_path: Path) -> None:
        made = commit(repo, tmp_path, 7)
        at = f"{RUN}/data/{made.id}/checkpoint-7"
        store.put(f"{at}/model.bin", bytes(1_200_000))
        store.put(f"{at}/state.json", b"")
        store.delete(f"{at}/empty")
        problems = repo.verify(made)
        assert [
            word in text for word, text in zip(("hash", "0 bytes", "missing"), problems, strict=True)
        ] == [True] * 3


class Meddling(MemoryStore):
    """Something happens to the training's files while the last one of four is uploaded."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        done = super().put_file(key, path)
        if key.endswith("/empty"):
            self._happens()
        return done


def _replace(path: Path) -> None:
    """Same size, same time: only the inode tells."""
    found, data = path.stat(), path.read_bytes()
    other = path.with_name("other")
    other.write_bytes(data[::-1])
    os.utime(other, ns=(found.st_atime_ns, found.st_mtime_ns))
    other.rename(path)


def _in_place(path: Path) -> None:
    """Same size, same inode: only the time tells."""
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(1, 1))


CHANGES: dict[str, Callable[[Path], object]] = {
    "append": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "in place": lambda path: _in_place(path),
    "replace": _replace,
    "remove": lambda path: path.unlink(),
    "touch": lambda path: os.utime(path, ns=(1, 1)),
}


def test_a_snapshot_of_what_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        snapshot(tmp_path, ["gone"])


class TestEnd:
    def test_there_and_back(self, repo: RunRepository) -> None:
        assert repo.read_end(1) is None
        repo.write_end(1, b"first")
        repo.write_end(1, SPEC)
        assert msgspec.json.decode(repo.read_end(1) or b"", type=type(SPEC)) == SPEC
        assert repo.claims() == {}


class TestLogs:
    def test_segments_make_one_stream(self, repo: RunRepository) -> None:
        first, second = os.urandom(SEGMENT), os.urandom(1000)
        repo.logs.append_segment(2, 0, first)
        repo.logs.append_segment(2, 1, second[:10])
        repo.logs.append_segment(2, 1, second)
        repo.logs.append_segment(10, 0, b"x")
        assert repo.logs.log_attempts() == [2, 10]
        assert repo.logs.log_size(2) == SEGMENT + 1000
        assert repo.logs.read_log(2, 0, 1 << 30) == first + second
        assert repo.logs.read_log(2, SEGMENT - 5, 10) == first[-5:] + second[:5]
        assert repo.logs.read_log(2, SEGMENT + 1000, 10) == b""
        assert (repo.logs.read_log(3, 0, 10), repo.logs.log_size(3)) == (b"", 0)

    @given(sizes=st.lists(st.integers(0, 5), max_size=4), offset=st.integers(0, 25), limit=st.integers(0, 25))
    def test_any_part_of_it(self, sizes: list[int], offset: int, limit: int) -> None:
        repo = repository(MemoryStore())
        whole = bytes(range(sum(sizes)))
        for number, size in enumerate(sizes):
            begin = sum(sizes[:number])
            repo.logs.append_segment(1, number, whole[begin : begin + size])
        assert repo.logs.read_log(1, offset, limit) == whole[offset : offset + limit]

    def test_a_segment_has_an_end(self, repo: RunRepository) -> None:
        with pytest.raises(ValueError, match="cannot be"):
            repo.logs.append_segment(1, 0, bytes(SEGMENT + 1))
        with pytest.raises(ValueError, match="cannot be"):
            repo.logs.append_segment(1, 10**6, b"")
