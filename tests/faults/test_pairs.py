"""Two processes killed at the same instant, at any moment of a run."""

from __future__ import annotations

import random

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House
from runctl_testing.strikes import Victim, goes_on, mend, strike

PAIRS = (("trainer", "agent"), ("trainer", "controller"), ("agent", "controller"))


@pytest.mark.parametrize("names", PAIRS, ids="-".join)
def test_a_pair_is_killed(
    house: House, witness: Witness, dice: random.Random, names: tuple[str, str]
) -> None:
    """Each heals what the other one's death has done: what is left undone when both go shows only here."""
    run = house.submit("--steps", "60", env=witness.env)
    hit = strike(house, [Victim(name, run) for name in names], dice)
    witness.look(run)
    mend(house, hit)
    goes_on(house, run, hit)
    assert witness.check(run).run.state == "succeeded"
