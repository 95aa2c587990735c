"""The broker itself goes, and comes back: as it was, or with nothing in it. A run trains on meanwhile."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.amqp_lab import Lab, Load
from runctl_testing.broker import Broker
from runctl_testing.buses import EVENTS, Inbox
from runctl_testing.controller_process import House
from runctl_testing.orders import Orders, Receiver
from runctl_testing.wired import told_once

pytestmark = [pytest.mark.amqp, pytest.mark.timeout(300)]


@pytest.fixture
def lab(module_broker: Broker) -> Iterator[Lab]:
    with closing(Lab(module_broker.url)) as lab:
        yield lab


@pytest.fixture
def house(amqp_house: House) -> House:
    return amqp_house


@pytest.mark.parametrize("end", ["planned", "killed"])
def test_the_broker_restarts_under_load(
    module_broker: Broker, house: House, witness: Witness, tmp_path: Path, dice: random.Random, end: str
) -> None:
    """An agent that ends because the broker said goodbye (320); an event confirmed and lost, or told twice;
    an order carried out twice because its acknowledgement was lost with the broker."""
    run = house.submit("--steps", "150", env=witness.env)
    with closing(Lab(module_broker.url)) as lab, Receiver(lab.url, "agent-l-1", tmp_path, dice) as receiver:
        inbox = Inbox()
        controller = lab.controller("agent-l-1")
        controller.subscribe(EVENTS, inbox)
        with Load(lab.connect(), lab.connect()) as load, Orders(controller, "agent-l-1", receiver) as orders:
            house.wait_training(run, saved=10)
            orders.wait_more(dice.randrange(20))
            load.wait_more(dice.randrange(500))
            if end == "planned":
                module_broker.stop()
            else:
                module_broker.settle()
                module_broker.kill()
            module_broker.start()
            load.wait_more(200)
            orders.wait_more(20)
        load.lost_nothing(inbox)
        orders.each_done_once()
    told_once(house, witness, run)


def test_the_broker_is_rebuilt_from_nothing(
    module_broker: Broker, house: House, witness: Witness, dice: random.Random
) -> None:
    """A fleet that is deaf for ever because nobody declares again what the new broker lacks; events that only
    the old broker had."""
    run = house.submit("--steps", "150", env=witness.env)
    house.wait_training(run, saved=dice.randrange(0, 60, 10))
    witness.look(run)
    module_broker.kill()
    module_broker.wipe()
    module_broker.start()
    told_once(house, witness, run)
