"""Every fault is met several times, each time with other dice.

A test that takes `dice` runs once per seed; its id names the seed, and
`pytest --fault-seed SEED --fault-repeat 1 -k NAME` meets the very same dice again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runctl_testing.aftermath import Witness
from runctl_testing.amqp_lab import Lab
from runctl_testing.broker import Unavailable
from runctl_testing.confined import ConfinedBroker, Estate
from runctl_testing.controller_process import House, Ways
from runctl_testing.ward import Ward
from runctl_testing.wired import Wired

DEFAULT_REPEAT = 3
_SEED, _REPEAT = "RUNCTL_TEST_FAULT_SEED", "RUNCTL_TEST_FAULT_REPEAT"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--fault-seed", type=int, default=None, help="the first seed (else drawn, and printed)")
    group.addoption("--fault-repeat", type=int, default=None, help=f"seeds per fault ({DEFAULT_REPEAT})")


def _first(config: pytest.Config) -> int:
    """The first seed: else drawn once for all processes of a test run (tests/conftest.py)."""
    given = config.getoption("--fault-seed", default=None)
    return int(os.environ[_SEED] if given is None else given)


def _repeat(config: pytest.Config) -> int:
    return int(config.getoption("--fault-repeat", default=None) or os.environ.get(_REPEAT) or DEFAULT_REPEAT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dice" in metafunc.fixturenames:
        first = _first(metafunc.config)
        seeds = range(first, first + _repeat(metafunc.config))
        metafunc.parametrize("dice", seeds, ids=[f"seed-{seed}" for seed in seeds], indirect=True)


@pytest.fixture
def dice(request: pytest.FixtureRequest) -> random.Random:
    """Randomness that the test's id tells how to draw again."""
    return random.Random(request.param)


@pytest.fixture(scope="module")
def ward_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One house for the trainings of a whole module: most faults need no controller of their own."""
    state = tmp_path_factory.mktemp("ward") / "state"
    with House(state, f"sqlite://{state / 'bus.db'}") as made:
        yield made


@pytest.fixture
def ward(ward_house: House, tmp_path: Path) -> Iterator[Ward]:
    """For an odd training, and what its provider does to it."""
    with closing(Ward(ward_house, tmp_path)) as made:
        yield made


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A controller over the embedded bus, started."""
    with House(tmp_path / "state", f"sqlite://{tmp_path / 'state' / 'bus.db'}") as made:
        yield made


@pytest.fixture
def lab(amqp_url: str) -> Iterator[Lab]:
    """A place of the test's own at the RabbitMQ that all tests share."""
    with closing(Lab(amqp_url)) as lab:
        yield lab


@pytest.fixture
def amqp_house(lab: Lab, tmp_path: Path) -> Iterator[House]:
    """A controller over RabbitMQ, started."""
    with House(tmp_path / "state", lab.url) as made:
        yield made


@pytest.fixture
def wired(lab: Lab, tmp_path: Path) -> Iterator[Wired]:
    """A house over RabbitMQ, each side on a wire of its own, started."""
    agents, controllers = lab.wire(), lab.wire()
    house = House(tmp_path / "state", agents.url)
    house.ways = Ways(controller=controllers.url, client=lab.url)
    with house:
        it = Witness(house)
        yield Wired(house, it, agents, controllers)


@pytest.fixture
def witness(house: House) -> Witness:
    """Sees everything that must hold of what runs in `house`."""
    return Witness(house)


@pytest.fixture(scope="session")
def confined_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConfinedBroker]:
    """A RabbitMQ as deploy/rabbitmq describes it, for all tests of one process."""
    try:
        broker = ConfinedBroker(tmp_path_factory.mktemp("confined"))
    except Unavailable as error:
        pytest.skip(str(error))
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture
def estate(confined_broker: ConfinedBroker, tmp_path: Path) -> Iterator[Estate]:
    """A place of this test's own at that broker."""
    with confined_broker.estate(tmp_path) as made:
        yield made
