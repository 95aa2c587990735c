"""The wire to the broker is torn, slow, cut at the worst moment or not there. A run trains on meanwhile."""

from __future__ import annotations

import random

import pytest

from runctl_testing.eventually import eventually
from runctl_testing.wired import Wired

pytestmark = pytest.mark.amqp


def test_the_wire_is_reset_in_the_middle_of_a_frame(wired: Wired, dice: random.Random) -> None:
    """Half a message taken for a whole one, on either side; an acknowledgement that is lost with its wire."""
    run = wired.submit("--steps", "120")
    for _ in range(4):
        wire = dice.choice([wired.agents, wired.controllers])
        wire.tear(dice.randrange(1, 500), back=dice.random() < 0.5)
        eventually(lambda wire=wire: wire.torn, 60, what="the wire to be torn")  # type: ignore[misc]  # a default binds it
    wired.told_once(run)


def test_the_confirmations_never_come(wired: Wired, dice: random.Random) -> None:
    """An event that the broker took, and whose sender was not told, is sent again: acted upon twice, it would
    be in the story twice."""
    run = wired.submit("--steps", "150")
    wired.house.wait_training(run, saved=dice.randrange(10, 50, 10))
    wired.agents.freeze(there=False)
    before = wired.house.show(run).run.saved_step or 0
    wired.house.wait(run, lambda d: (d.run.saved_step or 0) >= before + 20, "unconfirmed events to be told")
    wired.agents.reset()
    wired.agents.thaw()
    wired.told_once(run)


def test_the_broker_is_not_there_when_the_agent_starts(wired: Wired, dice: random.Random) -> None:
    """A machine that is paid for and whose agent has given up, or trains without the permission to."""
    wired.agents.shut()
    run = wired.submit("--steps", "40")
    wired.agent_says(run, "bus.down")
    assert wired.witness.diary() == []
    wired.agents.reopen()
    wired.told_once(run)


def test_the_broker_is_away_from_the_middle_of_the_training_to_beyond_its_end(
    wired: Wired, dice: random.Random
) -> None:
    """A training that is ended, or not saved, because nobody can be told of it; events that come in another
    order than they happened in, or not at all."""
    run = wired.submit("--steps", "100")
    wired.house.wait_training(run, saved=dice.randrange(0, 40, 10))
    wired.agents.shut()
    eventually(lambda: any(line.kind == "finished" for line in wired.witness.diary()), 60)
    wired.witness.look(run)
    wired.agents.reopen()
    wired.told_once(run)


def test_the_wire_trickles(wired: Wired, dice: random.Random) -> None:
    """A wire too slow for what is sent and too lively to be taken for dead: events that pile up until they
    are lost, heartbeats that push the checkpoints out."""
    run = wired.submit("--steps", "100")
    wired.house.wait_training(run, saved=10)
    wired.agents.trickle(dice.randrange(200, 600))
    eventually(lambda: any(line.kind == "finished" for line in wired.witness.diary()), 60)
    wired.agents.trickle(0)
    wired.told_once(run)
