"""Packets vanish between a machine and the broker, and nobody is told: both ways, and one way only.

Each machine is in a network of its own, so that it is the kernel that notices (TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.amqp_lab import Lab
from runctl_testing.controller_process import House, Ways
from runctl_testing.netns import Network, Unavailable, network
from runctl_testing.wired import Wired

pytestmark = pytest.mark.amqp


@pytest.fixture
def net() -> Iterator[Network]:
    """A network for the machines."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(network())
        except Unavailable as reason:
            pytest.skip(str(reason))
        yield made


@pytest.fixture
def apart(lab: Lab, net: Network, tmp_path: Path) -> Iterator[Wired]:
    """A house whose machines are in that network, and its controller is not."""
    wire = lab.wire(host=net.here)
    house = House(tmp_path / "state", wire.url)
    house.ways = Ways(controller=lab.url, client=lab.url, machine=net.prefix)
    with house:
        it = Witness(house)
        yield Wired(house, it, wire, wire)


@pytest.mark.parametrize("way", ["both ways", "to the broker", "from the broker"])
def test_a_black_hole(apart: Wired, net: Network, dice: random.Random, way: str) -> None:
    """A link that is waited on for ever because it only looks alive; a training that is ended, or does not
    save, because nothing is heard; a machine that is replaced because it is silent."""
    run = apart.submit("--steps", "200", "--step-time", "0.05")
    apart.house.wait_training(run, saved=dice.randrange(10, 40, 10))
    net.silence(out=way != "from the broker", back=way != "to the broker")
    said = apart.agent_says(run, "bus.down")
    assert "its heartbeat stopped" not in said  # the kernel knew long before
    apart.witness.look(run)
    net.restore()
    apart.told_once(run)
