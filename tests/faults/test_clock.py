"""Clocks that are set by hours while a run trains, and a machine that sleeps: nothing is misjudged by it."""

from __future__ import annotations

import os
import random
import signal
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runctl_shared.clock import SystemClock
from runctl_shared.messages.replies import RunDetail
from runctl_testing.aftermath import Witness
from runctl_testing.controller_process import LIB, House
from runctl_testing.eventually import eventually

KINDS = ("controller", "host", "agent")
LEASE = 6.0
HOURS = (-30.0, -3.0, -0.1, 0.1, 3.0, 30.0)


class Clocks(SystemClock):
    """The time of day as each kind of process of a house sees it (see clockwork/sitecustomize.py), and as the
    client sees it: by the controller's clock, on whose machine it is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wrong = 0.0
        folder.mkdir()
        self.set(0.0, *KINDS)

    @property
    def env(self) -> dict[str, str]:
        return {
            "TEST_CLOCKS": str(self._folder),
            "PYTHONPATH": os.pathsep.join((LIB, os.path.join(LIB, "clockwork"))),
        }

    def now(self) -> float:
        return super().now() + self._wrong

    def set(self, hours: float, *kinds: str) -> None:
        for kind in kinds:
            path = self._folder / kind
            with path.open("r+b" if path.exists() else "wb") as file:
                file.write(struct.pack("d", hours * 3600.0))
        if "controller" in kinds:
            self._wrong = hours * 3600.0


@pytest.fixture
def clocks(tmp_path: Path) -> Clocks:
    return Clocks(tmp_path / "clocks")


@pytest.fixture
def whose(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The clocks that are set: those of all, where all is one machine with one clock."""
    return tuple(getattr(request, "param", KINDS))


@pytest.fixture
def house(
    request: pytest.FixtureRequest, tmp_path: Path, clocks: Clocks, whose: tuple[str, ...]
) -> Iterator[House]:
    """Its lease is short: whoever counts a jump as silence ends something."""
    bus = f"sqlite://{tmp_path / 'state' / 'bus.db'}"
    if whose != KINDS:  # clocks that differ are those of different machines
        bus = request.getfixturevalue("lab").url
    made = House(tmp_path / "state", bus, lease=15.0)
    made.env, made.clock = clocks.env, clocks
    with made:
        yield made


def _undisturbed(detail: RunDetail) -> None:
    """One attempt, which was never taken for silent or lost, and no second counted backwards."""
    kinds = [item.kind for item in detail.story]
    assert (detail.run.state, [a.reason for a in detail.attempts]) == ("succeeded", ["succeeded"]), kinds
    assert not {"unheard", "fenced", "boot", "not_resumed"} & set(kinds), kinds
    for interval in detail.ledger:
        assert interval.end is not None
        assert interval.end >= interval.start


@pytest.mark.parametrize(
    "whose",
    [
        pytest.param(KINDS, id="one-machine"),
        pytest.param(("controller",), id="the-controllers", marks=pytest.mark.amqp),
        pytest.param(("host", "agent"), id="the-agents", marks=pytest.mark.amqp),
    ],
    indirect=True,
)
def test_the_clock_is_set_by_hours_and_back(
    house: House, witness: Witness, clocks: Clocks, dice: random.Random, whose: tuple[str, ...]
) -> None:
    """A lease, a hard end, a timer or the ledger that goes by the time of day."""
    run = house.submit("--steps", "120", "--step-time", "0.03", env=witness.env)
    house.wait_training(run, saved=dice.choice((0, 10, 20)))
    clocks.set(dice.choice(HOURS), *whose)
    if "controller" in whose:
        eventually(lambda: house.leader.log.count("clock.jumped") >= 1, 60)
    house.wait(run, lambda d: (d.attempts[0].saved_step or 0) >= 50, "it to save on")
    if dice.random() < 0.5:
        clocks.set(0.0, *whose)
    detail = house.wait_final(run)
    _undisturbed(detail)
    witness.check(run)


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[House]:
    """A house with a lease so short that nothing need sleep for long."""
    with House(tmp_path / "state", f"sqlite://{tmp_path / 'state' / 'bus.db'}", lease=LEASE) as made:
        yield made


def test_the_machine_sleeps_and_nobody_is_taken_for_silent(sleeper: House, dice: random.Random) -> None:
    """After a sleep longer than the lease an agent that ends its training, or a controller that fences it,
    though neither could have heard the other. (All processes are stopped, so that even their monotonic clocks
    go on: on a computer that really sleeps these stand still.)"""
    witness = Witness(sleeper)
    run = sleeper.submit("--steps", "100", "--step-time", "0.03", env=witness.env)
    sleeper.wait_training(run, saved=dice.choice((0, 10, 20)))
    everybody = _everybody(sleeper)
    for number in (signal.SIGSTOP, signal.SIGCONT):
        dice.shuffle(everybody)
        for process in everybody:
            process.send_signal(number)
        if number == signal.SIGSTOP:
            threading.Event().wait(LEASE * 1.3)
    detail = sleeper.wait_final(run)
    _undisturbed(detail)
    witness.check(run)


def _everybody(house: House) -> list[psutil.Process]:
    """The controller and all that runs on its machines."""
    below = [int(line.split()[0]) for line in Witness(house, house.state).machines()]
    return [psutil.Process(pid) for pid in (house.pid, *below)]
