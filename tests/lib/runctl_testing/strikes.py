"""SIGKILL for the processes of a run: for one or several at the same instant, at any moment of its life."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

import psutil

from runctl_shared.messages.replies import Done, RunDetail
from runctl_shared.messages.requests import ResumeRun
from runctl_testing.broker import Broker
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually

WITHIN = {"trainer": 1.6, "agent": 2.5, "controller": 3.0, "broker": 3.0}
"""Seconds from when a process was first seen (the latter two run before the run does) until it is killed, at
the most: somewhat more than the run of the tests takes, so that its very end is met as well."""
_WORDS = {"trainer": ["tiny_train.py"], "agent": ["runctl_agent", "--machine"]}


class Victim(NamedTuple):
    """`name`: trainer or agent (of the first attempt of `run`), controller or broker."""

    name: str
    run: str = ""


def strike(
    house: House, victims: Collection[Victim], dice: random.Random, broker: Broker | None = None
) -> set[Victim]:
    """Kill them at a moment drawn from `dice`; returns who was still there. Controller and broker then stay
    down: see `mend`.

    With a broker, not before its disk has the queues that were declared until then: a quorum queue that
    RabbitMQ 3.10 has declared in the second before a SIGKILL may come back without a leader, for good. Such
    an agent hears nothing any more, and its machine is given up after a whole lease: that makes a long test.
    """
    blows: dict[Victim, Callable[[], None]] = {}
    for victim in victims:
        if victim.name == "controller":
            blows[victim] = house.kill
        elif victim.name == "broker":
            assert broker is not None
            blows[victim] = broker.kill
        else:
            find = partial(house.find, victim.run, *_WORDS[victim.name])
            blows[victim] = eventually(find, 60, 0.01, victim.name)[0].kill
    if broker is not None:
        broker.settle()
    threading.Event().wait(dice.uniform(0.0, min(WITHIN[victim.name] for victim in victims)))
    hit = set()
    for victim in dice.sample(sorted(blows), len(blows)):
        try:
            blows[victim]()
        except psutil.NoSuchProcess:
            continue
        hit.add(victim)
    return hit


def mend(house: House, hit: Collection[Victim], broker: Broker | None = None) -> None:
    """Whoever runs controllers and brokers starts them again."""
    names = {victim.name for victim in hit}
    if "broker" in names:
        assert broker is not None
        broker.start()
    if "controller" in names:
        house.start()


def goes_on(house: House, run: str, hit: Collection[Victim]) -> RunDetail:
    """The run once it has ended. If its trainer was hit it may have failed, and is resumed by hand."""
    detail = house.wait_final(run)
    if detail.run.state != "failed":
        return detail
    assert Victim("trainer", run) in hit, detail
    assert detail.attempts[0].reason == "user_error"
    house.client.ask(ResumeRun(run=run), Done)
    return house.wait_final(run)
