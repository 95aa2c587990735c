"""What stands at the broker is deleted by somebody, or the broker takes nothing for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.amqp_lab import Lab
from runctl_testing.broker import Broker
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually
from runctl_testing.wired import Wired, told_once

pytestmark = pytest.mark.amqp


@pytest.mark.parametrize("queue", ["events", "requests", "heartbeats", "commands"])
def test_a_queue_is_deleted(wired: Wired, lab: Lab, dice: random.Random, queue: str) -> None:
    """A consumer that waits for ever for a queue that nobody makes again: connected, and deaf. Of an agent's
    queue its consumer is told, but only the controller can make it again."""
    run = wired.submit("--steps", "200")
    wired.house.wait_training(run, saved=dice.randrange(10, 50, 10))
    wired.witness.look(run)
    agent = f"agent-{run.removeprefix('run-')}-1"
    name = f"commands.{agent}" if queue == "commands" else queue
    lab.delete(name)
    eventually(lambda: lab.stands(name), 60, 0.2, f"the queue {name} to be made again")
    wired.told_once(run)


@pytest.fixture
def low(module_broker: Broker) -> Iterator[Broker]:
    """A broker that is low on memory when the test says so, and not any more afterwards."""
    yield module_broker
    module_broker.ctl("set_vm_memory_high_watermark", "0.6")


def test_the_broker_is_short_of_memory_during_a_checkpoint(
    low: Broker, tmp_path: Path, dice: random.Random
) -> None:
    """A publisher that is blocked, and with it the upload, the heartbeats or the end of a training; a
    checkpoint that is committed and never told of."""
    with closing(Lab(low.url)) as lab:
        house = House(tmp_path / "state", lab.url)
        with house:
            witness = Witness(house)
            run = house.submit("--steps", "150", env=witness.env)
            house.wait_training(run, saved=dice.randrange(0, 30, 10))
            low.ctl("set_vm_memory_high_watermark", "absolute", "1")
            eventually(lambda: any(line.kind == "finished" for line in witness.diary()), 60)
            witness.look(run)
            low.ctl("set_vm_memory_high_watermark", "0.6")
            told_once(house, witness, run)
