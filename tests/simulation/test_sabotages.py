"""Each sabotage of the product is noticed; without it the very same worlds are well."""

from __future__ import annotations

import pytest

from runctl_testing.sim.facts import Broken
from runctl_testing.sim.sabotages import SABOTAGES, Sabotage
from runctl_testing.sim.world import play

pytestmark = pytest.mark.simulation
MOST_SEEDS = 10_000


@pytest.mark.parametrize("sabotage", SABOTAGES, ids=lambda sabotage: sabotage.name)
@pytest.mark.timeout(600)
def test_is_noticed(sabotage: Sabotage, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        sabotage.do(patch)
        seed = _first_noticed(sabotage)
    assert seed is not None, f"{MOST_SEEDS} seeds, and nothing was noticed"
    play(seed, sabotage.bias)  # without the sabotage, the same world is well


def _first_noticed(sabotage: Sabotage) -> int | None:
    for seed in range(MOST_SEEDS):
        try:
            play(seed, sabotage.bias)
        except Broken:
            return seed
    return None


def test_there_are_enough_of_them() -> None:
    assert len({sabotage.name for sabotage in SABOTAGES}) >= 20
