"""Checkpoints that are damaged in the store before they are restored."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.manifest import data_key
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.messages.replies import Done
from runctl_shared.messages.requests import CancelRun, ResumeRun, StopRun
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House


def torn(file: Path, dice: random.Random) -> None:
    """The end of it was never written."""
    with file.open("rb+") as opened:
        opened.truncate(dice.randrange(file.stat().st_size))


def zeroed(file: Path, dice: random.Random) -> None:
    """A page of it was never written, and reads as zeros."""
    data = bytearray(file.read_bytes())
    start = dice.choice([at for at, byte in enumerate(data) if byte])
    data[start : start + 512] = bytes(len(data[start : start + 512]))
    file.write_bytes(data)


def empty(file: Path, dice: random.Random) -> None:
    """As a file system leaves it that makes files at once and writes them later."""
    file.write_bytes(b"")


def missing(file: Path, dice: random.Random) -> None:
    file.unlink()


DAMAGES: tuple[Callable[[Path, random.Random], None], ...] = (torn, zeroed, empty, missing)


def paused(house: House, witness: Witness) -> tuple[str, RunRepository, list[str]]:
    """A run that was stopped with several checkpoints, its part of the store, their names, newest first."""
    run = house.submit("--steps", "150", env=witness.env)
    house.wait_training(run, saved=20)
    house.client.ask(StopRun(run=run), Done)
    house.wait_final(run)
    repository = RunRepository(DirectoryStore(house.state / "checkpoints"), run)
    return run, repository, [parts.name for parts in repository.eligible()]


def files_of(repository: RunRepository, name: str, folder: Path) -> list[Path]:
    """All that is stored of a checkpoint: its manifest and its data."""
    manifest = repository.read_manifest(name)
    return [folder / name, *(folder / data_key(manifest.id, entry.path) for entry in manifest.files)]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over(
    house: House, witness: Witness, dice: random.Random, damage: Callable[[Path, random.Random], None]
) -> None:
    """A training that goes on from what was not saved so, or begins anew though an older one is whole."""
    run, repository, names = paused(house, witness)
    folder = house.state / "checkpoints" / run
    count = dice.randint(1, 2)
    for name in names[:count]:
        damage(dice.choice(files_of(repository, name, folder)), dice)
        witness.except_damaged(name)
    whole = repository.read_manifest(names[count])
    house.client.ask(ResumeRun(run=run), Done)
    house.wait_final(run)
    detail = witness.check(run)
    assert (detail.run.state, detail.attempts[1].restored_step) == ("succeeded", whole.step)
    # One without a manifest was never there.
    told = [item.text for item in detail.story if item.kind == "damaged"]
    listed = [name for name in names[:count] if (folder / name).exists()]
    assert len(told) == len(listed), told
    assert all(name in text for name, text in zip(listed, told, strict=True)), told


def test_with_every_checkpoint_damaged_nobody_trains(
    house: House, witness: Witness, dice: random.Random
) -> None:
    """A run that quietly begins anew when all that was saved is damaged: that is for a person to decide."""
    run, repository, names = paused(house, witness)
    for name in names:
        dice.choice(DAMAGES)(files_of(repository, name, house.state / "checkpoints" / run)[1], dice)
        witness.except_damaged(name)
    house.client.ask(ResumeRun(run=run), Done)
    detail = house.wait(run, lambda d: d.attempts[1].reason, "the second attempt to end")
    assert detail.attempts[1].reason == "store_failed"
    assert f"All {len(names)} checkpoints are damaged" in detail.attempts[1].detail
    house.client.ask(CancelRun(run=run, force=True), Done)
    house.wait_final(run)
    witness.check(run)
    assert not [line for line in witness.diary() if line.attempt > 1]
