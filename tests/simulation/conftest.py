"""How many seeds, and which."""

from __future__ import annotations

import os

import pytest

DEFAULT_SEEDS = 4000
CHUNK = 500
"""Seeds played in one test, so that a run of a hundred thousand shows how it goes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--sim-seeds", type=int, default=None, help="play so many seeds")
    group.addoption("--sim-seed", type=int, default=None, help="play this one seed only")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seeds" not in metafunc.fixturenames:
        return
    one = metafunc.config.getoption("--sim-seed", default=None)
    count = metafunc.config.getoption("--sim-seeds", default=None)
    if count is None:
        count = int(os.environ.get("RUNCTL_SIM_SEEDS") or DEFAULT_SEEDS)
    starts = range(0, count, CHUNK) if one is None else [one]
    chunks = [range(start, min(start + CHUNK, count) if one is None else start + 1) for start in starts]
    metafunc.parametrize("seeds", chunks, ids=[f"{c.start}-{c.stop - 1}" for c in chunks])
