"""SIGKILL for the processes of a run: for one or several at the same instant, at any moment of its life."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Collection
from functools import partial

import psutil

from runctl_testing.broker import Broker
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually

WITHIN = {"trainer": 1.6, "agent": 2.5, "controller": 3.0, "broker": 3.0}
"""Seconds from when a process was first seen (the latter two run before the run does) until it is killed, at
the most: somewhat more than the run of the tests takes, so that its very end is met as well."""
_WORDS = {"trainer": ["tiny_train.py"], "agent": ["runctl_agent", "--machine"]}


def strike(
    house: House, run: str, victims: Collection[str], dice: random.Random, broker: Broker | None = None
) -> set[str]:
    """Kill `victims` (trainer, agent: of the first attempt; controller; broker) at a moment drawn from
    `dice`; returns who of them was still there. What is not part of the run's machine stays down: see `mend`.
    """
    blows: dict[str, Callable[[], None]] = {}
    for name, words in _WORDS.items():
        if name in victims:
            blows[name] = eventually(partial(house.find, run, *words), 60, 0.01, name)[0].kill
    threading.Event().wait(dice.uniform(0.0, min(WITHIN[name] for name in victims)))
    if "controller" in victims:
        blows["controller"] = house.kill
    if "broker" in victims:
        assert broker is not None
        blows["broker"] = broker.kill
    hit = set()
    for name in dice.sample(sorted(blows), len(blows)):
        try:
            blows[name]()
        except psutil.NoSuchProcess:
            continue
        hit.add(name)
    return hit


def mend(house: House, hit: Collection[str], broker: Broker | None = None) -> None:
    """Whoever runs controllers and brokers starts them again."""
    if "broker" in hit:
        assert broker is not None
        broker.start()
    if "controller" in hit:
        house.start()
