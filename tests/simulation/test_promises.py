"""Thousands of fake worlds, the four promises after every step. A seed that fails prints its trace."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest

from runctl_testing.sim.world import play

pytestmark = pytest.mark.simulation


@pytest.mark.timeout(600)  # a chunk takes some seconds; the machine may be busy
def test_no_seed_breaks_a_promise(seeds: range) -> None:
    for seed in seeds:
        play(seed)


def test_the_seeds_are_worth_playing() -> None:
    """The worlds hold what they are there for: interruptions that are survived, faults, every kind of end."""
    worlds = [play(seed) for seed in range(200)]
    records = [record for world in worlds for record in world.disk.tables.records.values()]
    reasons = {attempt.reason for record in records for attempt in record.attempts}
    expected = {
        "succeeded",
        "user_error",
        "interrupted",
        "lost",
        "stopped",
        "boot_failed",
        "no_capacity",
        "stalled",
        "hardware_fault",
    }
    assert expected <= reasons
    assert {"succeeded", "failed", "paused", "cancelled"} <= {record.run.state.value for record in records}
    survived = [r for r in records if r.run.state.value == "succeeded" and len(r.attempts) > 1]
    assert len(survived) > 30
    assert sum(world.line.steps for world in worlds) > 200 * 150


def _digest(seed: int) -> str:
    return hashlib.sha256(play(seed).line.tail(10**6).encode()).hexdigest()


_CODE = """
import hashlib, sys
from runctl_testing.sim.world import play
for seed in map(int, sys.argv[1:]):
    print(hashlib.sha256(play(seed).line.tail(10**6).encode()).hexdigest())
"""


def test_a_seed_replays_exactly_also_in_another_process() -> None:
    seeds = range(40, 60)
    path = os.pathsep.join(sys.path)
    env = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": path}
    words = [sys.executable, "-c", _CODE, *map(str, seeds)]
    other = subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=60)
    assert other.stdout.split() == [_digest(seed) for seed in seeds]
