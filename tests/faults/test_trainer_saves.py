"""Trainings that save in ways that can be caught half-way."""

from __future__ import annotations

import random

import pytest

from runctl_testing.odd_train import SHARDS
from runctl_testing.ward import Ward


def test_a_file_that_grows_slowly_is_stored_when_it_is_whole(ward: Ward, dice: random.Random) -> None:
    """A file that is stored while it grows, or never, because nobody looks again."""
    ward.enough()
    run = ward.start("--save", "slowly", "--pause", "0.8", "--steps", "30", "--save-every", "15")
    ward.until("saved", 15)
    if dice.random() < 0.5:
        ward.until("saving", 30)
        ward.house.agent(run).kill()  # the next one finds it half-written
    detail = ward.end(run)
    assert [c.step for c in ward.house.checkpoints(run).checkpoints] == [30, 15]
    assert [(a.saved_step, a.reason) for a in detail.attempts] == [(30, "succeeded")]


def test_two_hundred_files_wait_for_their_index(ward: Ward, dice: random.Random) -> None:
    """A folder that is stored because nothing in it changed for a while, before its last file is there."""
    ward.enough()
    run = ward.start("--save", "shards", "--pause", "6", "--steps", "15", "--save-every", "15")
    ward.until("saving", 15)
    if dice.random() < 0.3:
        ward.house.agent(run).kill()
    ward.end(run)
    assert [(c.step, c.files) for c in ward.house.checkpoints(run).checkpoints] == [(15, SHARDS + 1)]


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
