"""Eight clients ask at once, about one run, while it ends."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runctl_controller.client.client import Client
from runctl_controller.rehearsal.drill import FINAL
from runctl_shared.messages.replies import CheckpointList, Done, LogPiece, RunDetail, RunList
from runctl_shared.messages.requests import ListCheckpoints, ListRuns, ReadLog, ShowRun, StopRun
from runctl_testing.aftermath import Witness
from runctl_testing.buses import PATIENCE
from runctl_testing.controller_process import House

pytestmark = pytest.mark.amqp
CROWD = 8


@pytest.fixture
def house(amqp_house: House) -> House:
    return amqp_house


@pytest.mark.parametrize("end", ["by itself", "because all of them stop it"])
def test_eight_ask_at_once_while_a_run_ends(
    house: House, witness: Witness, dice: random.Random, end: str
) -> None:
    """A question that is never answered; an answer older than one that was given before; a stop that is done
    eight times."""
    run = house.submit("--steps", "80" if end == "by itself" else "10000", env=witness.env)
    house.wait_training(run, saved=10)
    together = threading.Barrier(CROWD)

    def ask(seed: int) -> list[RunDetail]:
        with Client(house.bus) as client:
            together.wait(PATIENCE)
            if end != "by itself":
                client.ask(StopRun(run=run), Done)
            return list(_asked(client, run, random.Random(seed)))

    with ThreadPoolExecutor(CROWD) as pool:
        seeds = [dice.randrange(10**9) for _ in range(CROWD)]
        for told in pool.map(ask, seeds):
            _never_older(told)
    house.wait_final(run)
    detail = witness.check(run)
    assert detail.run.state == ("succeeded" if end == "by itself" else "paused")
    assert len(detail.attempts) == 1
    assert len([item for item in detail.story if item.kind == "save"]) == (end != "by itself")


def _asked(client: Client, run: str, dice: random.Random) -> Iterator[RunDetail]:
    """What a client is told of the run, among other questions, until it has ended. Raises NoController when
    one is not answered."""
    others: list[Callable[[], Any]] = [
        lambda: client.ask(ListRuns(all=True), RunList),
        lambda: client.ask(ListCheckpoints(run=run), CheckpointList),
        lambda: client.ask(ReadLog(run=run, attempt=1), LogPiece),
    ]
    while True:
        dice.choice(others)()
        detail = client.ask(ShowRun(run=run, story=2000), RunDetail)
        yield detail
        if detail.run.state in FINAL:
            return


def _never_older(told: list[RunDetail]) -> None:
    saved = [detail.run.saved_step or 0 for detail in told]
    assert saved == sorted(saved)
    length = [len(detail.story) for detail in told]
    assert length == sorted(length)
