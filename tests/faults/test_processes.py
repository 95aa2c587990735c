"""Processes that are killed at any moment of a run: boot, training, saving, end."""

from __future__ import annotations

import random

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House
from runctl_testing.strikes import Victim, goes_on, mend, strike

STEPS = ("--steps", "60")


@pytest.mark.parametrize("victim", ["agent", "controller"])
def test_nobody_notices_that_it_was_killed(
    house: House, witness: Witness, dice: random.Random, victim: str
) -> None:
    """A training that ends with its agent or its controller, is started twice by a successor, or is told
    wrongly because the successor knows less."""
    run = house.submit(*STEPS, env=witness.env)
    hit = strike(house, [Victim(victim, run)], dice)
    witness.look(run)
    mend(house, hit)
    house.wait_final(run)
    detail = witness.check(run)
    assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)


def test_the_trainer_is_killed(house: House, witness: Witness, dice: random.Random) -> None:
    """A death that is taken for an end in good order, or a checkpoint that was half written and counts."""
    run = house.submit(*STEPS, env=witness.env)
    hit = strike(house, [Victim("trainer", run)], dice)
    witness.look(run)
    goes_on(house, run, hit)
    assert witness.check(run).run.state == "succeeded"
