"""Restoring: the newest intact one, whole or not at all, and never outside its folder."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from runctl_shared.checkpoints.manifest import (
    FileEntry,
    Manifest,
    ManifestDamaged,
    NameParts,
    encode,
    parse_name,
)
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStoreError, StoreRefused
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.checkpoints.restore import NothingIntact, RestoreFailed
from runctl_shared.checkpoints.upload import Draft, Stopped, snapshot
from runctl_testing import forked
from runctl_testing.checkpoints import RUN, commit, contents, is_whole, repository


class World(NamedTuple):
    store: MemoryStore
    repo: RunRepository
    made: list[Manifest]
    target: Path

    def key(self, index: int, name: str) -> str:
        made = self.made[index]
        return f"{RUN}/data/{made.id}/{made.root}/{name}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Checkpoints of steps 1, 2 and 3."""
    store = MemoryStore()
    repo = repository(store)
    repo.claim(1, "agent-a-1", None, 0.0)
    made = [commit(repo, tmp_path / "train", step) for step in (1, 2, 3)]
    store.calls.clear()
    return World(store, repo, made, tmp_path / "target")


def parts(name: str) -> NameParts:
    found = parse_name(name)
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_comes_back(world: World) -> None:
    found = world.repo.restore(world.repo.eligible(), world.target)
    assert found is not None
    assert found.manifest == world.made[2]
    assert found.path == world.target / found.manifest.id / "checkpoint-3"
    assert is_whole(found.path, 3)
    assert found.damaged == ()
    for entry in found.manifest.files:
        assert (found.path.parent / entry.path).stat().st_mtime_ns == entry.mtime_ns
    assert names(world.target) == [found.manifest.id]
    assert {path.stat().st_mode & 0o077 for path in world.target.rglob("*")} == {0}


def test_a_single_file(tmp_path: Path) -> None:
    repo = repository(MemoryStore())
    (tmp_path / "model.npz").write_bytes(b"weights")
    draft = Draft(
        id="ck-1a",
        attempt=1,
        sequence=1,
        step=None,
        format="npz",
        root="model.npz",
        single_file=True,
        written_at=0,
    )
    made = repo.commit(draft, tmp_path, snapshot(tmp_path, ["model.npz"]))
    found = repo.restore([parts(made.name)], tmp_path / "target")
    assert found is not None
    assert found.path.read_bytes() == b"weights"


def test_nothing_to_restore_is_nothing(world: World) -> None:
    assert world.repo.restore([], world.target) is None


def zero_page(data: bytes) -> bytes:
    return data[:4096] + bytes(4096) + data[8192:]


DAMAGES: dict[str, Callable[[World], object]] = {
    "cut short": lambda w: w.store.put(w.key(2, "model.bin"), contents(3)["checkpoint-3/model.bin"][:-1]),
    "longer": lambda w: w.store.put(w.key(2, "empty"), b"x"),
    "a page of zeros": lambda w: w.store.put(
        w.key(2, "model.bin"), zero_page(contents(3)["checkpoint-3/model.bin"])
    ),
    "all zeros": lambda w: w.store.put(w.key(2, "sub/optimizer.bin"), bytes(12)),
    "missing": lambda w: w.store.delete(w.key(2, "state.json")),
    "no manifest": lambda w: w.store.delete(f"{RUN}/{w.made[2].name}"),
    "half a manifest": lambda w: w.store.put(f"{RUN}/{w.made[2].name}", encode(w.made[2])[:200]),
    "anothers manifest": lambda w: w.store.put(f"{RUN}/{w.made[2].name}", encode(w.made[1])),
}


@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damage_falls_back_and_is_reported(world: World, damage: str) -> None:
    candidates = world.repo.eligible()
    DAMAGES[damage](world)
    before = dict(world.store.objects)
    found = world.repo.restore(candidates, world.target)
    assert found is not None
    assert found.manifest == world.made[1]
    assert is_whole(found.path, 2)
    assert [name for name, _ in found.damaged] == [world.made[2].name]
    assert found.damaged[0][1].endswith(".")
    assert names(world.target) == [found.manifest.id]
    assert world.store.objects == before


def test_what_is_cut_short_is_seen_before_anything_is_fetched(world: World) -> None:
    DAMAGES["cut short"](world)
    world.repo.restore(world.repo.eligible(), world.target)
    fetched = [key for call, key in world.store.calls if call == "get_file"]
    assert not [key for key in fetched if world.made[2].id in key]


def test_all_damaged_is_not_nothing(world: World) -> None:
    for index in range(3):
        world.store.put(world.key(index, "state.json"), b"?")
    with pytest.raises(NothingIntact, match="All 3 checkpoints are damaged") as raised:
        world.repo.restore(world.repo.eligible(), world.target)
    assert [name for name, _ in raised.value.damaged] == [made.name for made in reversed(world.made)]
    assert names(world.target) == []


@pytest.mark.parametrize("operation", ["get", "list", "get_file"])
def test_a_store_that_fails_is_not_damage(world: World, operation: str) -> None:
    candidates = world.repo.eligible()
    world.store.fail_once(operation, ObjectStoreError("unreachable"))
    with pytest.raises(ObjectStoreError, match="unreachable"):
        world.repo.restore(candidates, world.target)
    assert names(world.target) == []
    found = world.repo.restore(candidates, world.target)
    assert found is not None
    assert found.manifest == world.made[2]


def test_a_store_that_went_away_is_not_damage(world: World) -> None:
    candidates = world.repo.eligible()
    world.store.objects.clear()
    with pytest.raises(StoreRefused, match="nothing of"):
        world.repo.restore(candidates, world.target)


@pytest.mark.parametrize(
    "path", ["../../evil", "../evil", "/tmp/evil", "checkpoint-3/../../../evil", "checkpoint-3/a\0"]
)
def test_a_forged_path_leads_nowhere(world: World, tmp_path: Path, path: str) -> None:
    made = world.made[2]
    forged = msgspec.structs.replace(made, files=(*made.files, FileEntry(path, 4, "0" * 64, 1)), root=".")
    world.store.put(f"{RUN}/{made.name}", encode(forged))
    world.store.objects[f"{RUN}/data/{made.id}/{path}"] = b"evil"
    with pytest.raises(ManifestDamaged):
        world.repo.read_manifest(made.name)
    found = world.repo.restore(world.repo.eligible(), world.target)
    assert found is not None
    assert found.manifest == world.made[1]
    assert "plain relative path" in found.damaged[0][1] or "NUL" in found.damaged[0][1]
    assert not list(tmp_path.rglob("evil*"))
    assert not Path("/tmp/evil").exists()


def test_a_forged_size_is_not_believed(world: World) -> None:
    made = world.made[2]
    huge = tuple(msgspec.structs.replace(entry, size=1 << 60) for entry in made.files)
    world.store.put(f"{RUN}/{made.name}", encode(msgspec.structs.replace(made, files=huge)))
    found = world.repo.restore(world.repo.eligible(), world.target)
    assert found is not None
    assert found.manifest == world.made[1]


def test_room_is_looked_for_first(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil._ntuple_diskusage(100, 100, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(RestoreFailed, match=r"needs 1\.2 MB in .*, and 1\.0 kB are free there") as raised:
        world.repo.restore(world.repo.eligible(), world.target)
    assert raised.value.mend
    assert "get_file" not in [call for call, _ in world.store.calls]


def test_a_disk_that_fills_up_meanwhile(world: World) -> None:
    def try_it() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        with pytest.raises(RestoreFailed, match="no room left"):
            world.repo.restore(world.repo.eligible(), world.target)

    assert forked.run(try_it) == 0
    assert names(world.target) == []


def test_a_target_that_is_a_file(world: World) -> None:
    world.target.write_bytes(b"")
    with pytest.raises(RestoreFailed, match="Cannot restore into") as raised:
        world.repo.restore(world.repo.eligible(), world.target)
    assert raised.value.mend


def test_what_is_there_already_is_used(world: World) -> None:
    world.repo.restore(world.repo.eligible(), world.target)
    os.utime(world.target / world.made[2].id / "checkpoint-3" / "model.bin", ns=(1, 1))
    world.store.calls.clear()
    again = world.repo.restore(world.repo.eligible(), world.target)
    assert again is not None
    assert again.path.joinpath("model.bin").stat().st_mtime_ns == again.manifest.files[0].mtime_ns
    assert "get_file" not in [call for call, _ in world.store.calls]


def link_away(path: Path, to: Path) -> None:
    path.rename(to)
    path.symlink_to(to)


SPOILS: dict[str, Callable[[Path], object]] = {
    "changed": lambda folder: (folder / "model.bin").write_bytes(bytes(1_200_000)),
    "cut short": lambda folder: (folder / "model.bin").write_bytes(b""),
    "removed": lambda folder: (folder / "empty").unlink(),
    "linked elsewhere": lambda folder: link_away(folder / "model.bin", folder.parents[2] / "moved"),
    "all a link": lambda folder: link_away(folder.parent, folder.parents[2] / "moved"),
}


@pytest.mark.parametrize("spoil", list(SPOILS))
def test_what_is_there_and_spoilt_is_fetched_again(world: World, spoil: str) -> None:
    first = world.repo.restore(world.repo.eligible(), world.target)
    assert first is not None
    SPOILS[spoil](first.path)
    again = world.repo.restore(world.repo.eligible(), world.target)
    assert again is not None
    assert is_whole(again.path, 3)
    assert not any(path.is_symlink() for path in world.target.rglob("*"))
    assert names(world.target) == [again.manifest.id]


def test_leftovers_are_removed_and_all_else_is_left(world: World) -> None:
    (world.target / ".restoring-dead" / "sub").mkdir(parents=True)
    (world.target / "mine").write_bytes(b"x")
    found = world.repo.restore(world.repo.eligible(), world.target)
    assert found is not None
    assert names(world.target) == [found.manifest.id, "mine"]


def test_it_can_be_stopped(world: World) -> None:
    answers = iter([False, True])
    with pytest.raises(Stopped):
        world.repo.restore(world.repo.eligible(), world.target, lambda: next(answers))
    assert names(world.target) == []
