"""The process is killed at every point of a commit, a claim and a restore, over a real folder."""

from __future__ import annotations

import os
import signal
from itertools import count
from pathlib import Path

import pytest

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_testing import forked
from runctl_testing.checkpoints import commit, contents, draft, is_whole, repository, write


@pytest.fixture
def repo(tmp_path: Path) -> RunRepository:
    """A run with a checkpoint of step 1."""
    made = repository(DirectoryStore(tmp_path / "store"))
    made.claim(1, "agent-a-1", None, 0.0)
    commit(made, tmp_path / "train", 1)
    return made


def check_consistent(repo: RunRepository, target: Path) -> int:
    """Every manifest has its data; what is restored is whole, and the newest. Returns its step."""
    steps = []
    for parts in repo.manifests():
        manifest = repo.read_manifest(parts.name)
        assert repo.verify(manifest) == []
        steps.append(manifest.step or 0)
    found = repo.restore(repo.eligible(), target)
    assert found is not None
    assert found.damaged == ()
    assert found.manifest.step == max(steps)
    assert is_whole(found.path, max(steps))
    return max(steps)


class DiesAfter(DirectoryStore):
    """Kills its process once `puts` puts are done."""

    def __init__(self, root: Path, puts: int) -> None:
        super().__init__(root)
        self._left = puts

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> None:
        super().put(key, data, if_absent=if_absent)
        self._count()

    def put_file(self, key: str, path: Path) -> tuple[int, str]:
        done = super().put_file(key, path)
        self._count()
        return done

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_after_every_put_of_a_commit(repo: RunRepository, tmp_path: Path) -> None:
    puts = len(contents(0)) + 1
    for after in range(1, puts + 2):
        step = 10 * after
        files = write(tmp_path / "train", step)
        dying = RunRepository(DiesAfter(tmp_path / "store", after), "run-abcd1234")
        status = forked.run(lambda: dying.commit(draft(step), tmp_path / "train", files))  # noqa: B023  # run here
        assert status == (-signal.SIGKILL if after <= puts else 0)
        assert check_consistent(repo, tmp_path / "target") == (step if after >= puts else 1)


def test_killed_at_every_call_of_a_commit(repo: RunRepository, tmp_path: Path) -> None:
    """And the same checkpoint can be committed after that, by the same or another process."""
    for call in count():
        step, files = 2 + call, write(tmp_path / "train", 2 + call)
        made = draft(step)
        killed = forked.killed_at(call, lambda: repo.commit(made, tmp_path / "train", files))  # noqa: B023  # as above
        newest = check_consistent(repo, tmp_path / "target")
        assert newest in (step - 1, step) if killed else newest == step
        if newest != step:
            repo.commit(made, tmp_path / "train", files)
        assert check_consistent(repo, tmp_path / "target") == step
        if not killed:
            break
    assert call > 20


def test_killed_at_every_call_of_a_claim(repo: RunRepository) -> None:
    parent = repo.manifests()[0].name
    for call in count():
        attempt = 2 + call
        killed = forked.killed_at(
            call,
            lambda: repo.claim(attempt, "agent-a", parent, 1.0),  # noqa: B023  # as above
        )
        claim = repo.claim(attempt, "agent-a", parent, 2.0)
        assert (claim.agent, claim.parent) == ("agent-a", parent)
        assert repo.claims()[attempt] == claim
        if not killed:
            assert claim.claimed_at == 1.0
            break
    assert call > 3


def test_killed_at_every_call_of_a_restore(repo: RunRepository, tmp_path: Path) -> None:
    """Nothing half restored is ever at its place, and the next restore clears up and succeeds."""
    (parts,) = repo.manifests()
    for call in count():
        target = tmp_path / f"target-{call}"
        killed = forked.killed_at(call, lambda: repo.restore([parts], target))  # noqa: B023  # as above
        there = target / parts.id
        assert not there.exists() or is_whole(there / "checkpoint-1", 1)
        assert check_consistent(repo, target) == 1
        assert [path.name for path in target.iterdir()] == [parts.id]
        if not killed:
            break
    assert call > 5


def test_killed_while_a_spoilt_copy_is_replaced(repo: RunRepository, tmp_path: Path) -> None:
    (parts,) = repo.manifests()
    for call in count():
        target = tmp_path / f"target-{call}"
        assert repo.restore([parts], target) is not None
        (target / parts.id / "checkpoint-1" / "state.json").write_bytes(b"spoilt")
        killed = forked.killed_at(call, lambda: repo.restore([parts], target))  # noqa: B023  # as above
        assert check_consistent(repo, target) == 1
        assert [path.name for path in target.iterdir()] == [parts.id]
        if not killed:
            break
    assert call > 5
