"""Processes that are killed, paused or asleep at any moment."""

from __future__ import annotations

import random

from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House


def test_the_agent_is_killed_at_a_random_moment(house: House, witness: Witness, dice: random.Random) -> None:
    """A training that ends with its agent, or is started twice by the agent's successor."""
    run = house.submit("--steps", "80", env=witness.env)
    house.wait_training(run, saved=dice.randrange(0, 50, 10))
    witness.look(run)
    house.agent(run).kill()
    house.wait_final(run)
    assert witness.check(run).run.state == "succeeded"
