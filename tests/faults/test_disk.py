"""Disks that are full: under the checkpoint store, under the agent's spool, under the training's scratch."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from runctl_shared.messages.replies import Done, RunDetail
from runctl_shared.messages.requests import ResumeRun, StopRun
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually
from runctl_testing.small_disk import SmallDisk, small_disk

MEBIBYTE = 1 << 20


@pytest.fixture
def store(house: House) -> Iterator[SmallDisk]:
    """The disk on which the checkpoints are kept."""
    with small_disk(house.state / "checkpoints", 8) as disk:
        yield disk


@pytest.fixture
def machines(house: House) -> Iterator[SmallDisk]:
    """The disk of all machines: spools, and where trainings save."""
    with small_disk(house.state / "machines", 24) as disk:
        yield disk


def told(detail: RunDetail, kind: str) -> list[str]:
    return [item.text for item in detail.story if item.kind == kind]


def test_the_store_is_full_for_a_while(
    house: House, witness: Witness, store: SmallDisk, dice: random.Random
) -> None:
    """A checkpoint that could not be stored and is forgotten, or an end that does not wait for it."""
    run = house.submit("--steps", "120", env=witness.env)
    house.wait_training(run, saved=dice.randrange(10, 60, 10))
    store.fill()
    witness.look(run)
    failed = house.wait(run, lambda d: told(d, "checkpoint_failed"), "a checkpoint to fail")
    assert all("no room left" in text for text in told(failed, "checkpoint_failed"))
    if dice.random() < 0.5:  # else while it trains
        eventually(lambda: witness.diary()[-1].kind == "finished")
    store.free()
    house.wait_final(run)
    detail = witness.check(run)
    assert (detail.run.state, detail.attempts[0].saved_step) == ("succeeded", 120)


def test_the_store_goes_away_for_a_while(house: House, witness: Witness, dice: random.Random) -> None:
    """Checkpoints that are stored into the empty folder over which its file system was mounted: they count as
    safe, and are gone when it comes back."""
    run = house.submit("--steps", "120", env=witness.env)
    house.wait_training(run, saved=dice.randrange(10, 60, 10))
    store, away = house.state / "checkpoints", house.state / "away"
    store.rename(away)
    store.mkdir()
    failed = house.wait(run, lambda d: told(d, "checkpoint_failed"), "a checkpoint to fail")
    assert all("nothing of run" in text for text in told(failed, "checkpoint_failed"))
    if dice.random() < 0.5:  # else while it trains
        eventually(lambda: witness.diary()[-1].kind == "finished")
    store.rmdir()  # nothing was put into it
    away.rename(store)
    house.wait_final(run)
    detail = witness.check(run)
    assert (detail.run.state, detail.attempts[0].saved_step) == ("succeeded", 120)


def test_the_disk_of_the_machine_is_full(
    house: House, witness: Witness, machines: SmallDisk, dice: random.Random
) -> None:
    """An agent that ends with the training whose disk is full, or knows less afterwards: it can write down
    neither what it decides nor what it has to tell, at first not even its last word."""
    run = house.submit("--steps", "120", env=witness.env)
    house.wait_training(run, saved=dice.randrange(10, 60, 10))
    witness.look(run)
    training = house.training(run)
    with machines.kept_full():
        training.wait(60)  # it cannot save
        if dice.random() < 0.5:
            house.agent(run).kill()
    detail = house.wait_final(run)
    assert (detail.run.state, detail.attempts[0].reason) == ("failed", "user_error")
    house.client.ask(ResumeRun(run=run), Done)
    house.wait_final(run)
    assert witness.check(run).run.state == "succeeded"


def test_there_is_no_room_to_restore(
    house: House, witness: Witness, machines: SmallDisk, dice: random.Random
) -> None:
    """A training that begins anew because its checkpoint did not fit on the new machine."""
    run = house.submit("--steps", "500", "--size", str(4 * MEBIBYTE), "--save-every", "0", env=witness.env)
    house.wait(run, lambda d: d.attempts[0].first_step, "it to train")
    house.client.ask(StopRun(run=run), Done)
    house.wait_final(run)
    witness.look(run)
    machines.fill(leave=dice.randrange(5 * MEBIBYTE, 7 * MEBIBYTE))
    house.client.ask(ResumeRun(run=run), Done)
    detail = house.wait(run, lambda d: d.attempts[1].reason, "the restore to fail")
    assert detail.attempts[1].reason == "store_failed"
    assert "Make room" in detail.attempts[1].detail
    assert [line.kind for line in witness.diary() if line.attempt == 2] == []
    machines.free()
    house.wait(run, lambda d: len(d.attempts) > 2 and d.attempts[2].first_step, "it to train again")
    house.client.ask(StopRun(run=run), Done)
    house.wait_final(run)
    detail = witness.check(run)
    assert detail.attempts[2].restored_step == detail.attempts[0].saved_step
