"""Trainings that save in ways that can be caught half-way."""

from __future__ import annotations

import random

import pytest

from runctl_testing.odd_train import SHARDS
from runctl_testing.ward import Ward


@pytest.mark.parametrize("save", ["slowly", "shards"])
def test_a_save_that_takes_long_is_taken_whole_or_not_at_all(
    ward: Ward, save: str, dice: random.Random
) -> None:
    """A file that is stored while it grows; a folder that is stored before its index is there. The training
    itself refuses to resume from either. Without an interruption: every one it wrote is stored."""
    pause = "2.5" if save == "shards" else "0.8"  # longer than the quiet period, where there is one
    ward.enough()
    run = ward.start("--save", save, "--pause", pause, "--steps", "30", "--save-every", "15")
    ward.until("saved", 15)
    if dice.random() < 0.5:
        ward.until("saving", 30)
        ward.house.agent(run).kill()  # the next one finds it half-written
    detail = ward.end(run)
    stored = [c.step for c in ward.house.checkpoints(run).checkpoints]
    assert stored == [30, 15]
    assert [(a.saved_step, a.reason) for a in detail.attempts] == [(30, "succeeded")]
    if save == "shards":
        assert {c.files for c in ward.house.checkpoints(run).checkpoints} == {SHARDS + 1}


@pytest.mark.parametrize("save", ["slowly", "shards"])
def test_the_machine_goes_while_it_saves(ward: Ward, save: str, dice: random.Random) -> None:
    """Half a checkpoint that is stored because the time is up, and that the next attempt is given."""
    long = ("--pause", "1000", "--pauses-until", "1")
    run = ward.start("--save", save, *long, "--steps", "20", "--save-every", "15")
    ward.until("saving", 15)
    ward.provider.interrupt(run, notice=dice.uniform(0.5, 2.0))
    first, second = ward.interrupted(run)
    assert (first.saved_step, second.restored_step, first.lost_steps) == (None, None, 15)
    assert {c.attempt for c in ward.house.checkpoints(run).checkpoints} == {2}
