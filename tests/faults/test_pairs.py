"""Two processes killed at the same instant, at any moment of a run."""

from __future__ import annotations

import random

import pytest

from runctl_shared.messages.replies import Done
from runctl_shared.messages.requests import ResumeRun
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import House
from runctl_testing.strikes import mend, strike

PAIRS = (("trainer", "agent"), ("trainer", "controller"), ("agent", "controller"))


@pytest.mark.parametrize("victims", PAIRS, ids="-".join)
def test_a_pair_is_killed(
    house: House, witness: Witness, dice: random.Random, victims: tuple[str, str]
) -> None:
    """Each heals what the other one's death has done: what is left undone when both go shows only here."""
    run = house.submit("--steps", "60", env=witness.env)
    hit = strike(house, run, victims, dice)
    witness.look(run)
    mend(house, hit)
    detail = house.wait_final(run)
    if detail.run.state == "failed":
        assert "trainer" in hit
        assert detail.attempts[0].reason == "user_error"
        house.client.ask(ResumeRun(run=run), Done)
        house.wait_final(run)
    assert witness.check(run).run.state == "succeeded"
