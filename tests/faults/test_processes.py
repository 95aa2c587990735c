"""Processes that are killed at any moment of a run: boot, training, saving, end."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runctl_shared import ids
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import DOOM, House
from runctl_testing.doomed_agent import BOUNDARIES, DEAD, doom
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


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=lambda name: name.replace(" ", "-"))
def test_the_agent_dies_between_acting_and_saying_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dice: random.Random, boundary: str
) -> None:
    """A command that is acted on twice, or an event that is lost: between what is decided, stored, done, sent
    and acknowledged there is always a moment in which only one side of it has happened."""
    monkeypatch.setenv(DOOM, doom(boundary, before=dice.random() < 0.5, count=dice.randint(1, 10)))
    house = House(tmp_path / "state", f"sqlite://{tmp_path / 'state' / 'bus.db'}")
    with house:
        witness = Witness(house)
        run = house.submit(*STEPS, env=witness.env)
        house.wait_final(run)
        detail = witness.check(run)
    assert (detail.run.state, len(detail.attempts)) == ("succeeded", 1)
    assert (house.state / "machines" / "machines" / ids.agent_id(run, 1) / DEAD).exists()
