"""The broker is killed at any moment, and with it, at the same instant, one of the others."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.broker import Broker
from runctl_testing.controller_process import House
from runctl_testing.strikes import Victim, goes_on, mend, strike

pytestmark = pytest.mark.amqp


@pytest.fixture
def house(tmp_path: Path, module_broker: Broker) -> Iterator[House]:
    """A controller over RabbitMQ, started."""
    with House(tmp_path / "state", f"{module_broker.url}?prefix=t{secrets.token_hex(4)}") as made:
        yield made


@pytest.mark.parametrize("with_controller", [False, True], ids=["alone", "with-controller"])
def test_the_broker_is_killed(
    house: House, tmp_path: Path, module_broker: Broker, dice: random.Random, with_controller: bool
) -> None:
    """What only the broker knew is lost with it, and who would say it again may have died as well.

    Three runs at once, since to start a broker takes long: of one the trainer dies with it, of one the agent,
    and of one nobody."""
    witnesses = [Witness(house, tmp_path / f"diary-{number}") for number in range(3)]
    runs = [house.submit("--steps", "200", env=witness.env) for witness in witnesses]
    victims = [Victim("trainer", runs[0]), Victim("agent", runs[1]), Victim("broker")]
    if with_controller:
        victims.append(Victim("controller"))
    hit = strike(house, victims, dice, module_broker)
    for run, witness in zip(runs, witnesses, strict=True):
        witness.look(run)
    mend(house, hit, module_broker)
    for run in runs:
        goes_on(house, run, hit)
    for run, witness in zip(runs, witnesses, strict=True):
        assert witness.check(run).run.state == "succeeded"
