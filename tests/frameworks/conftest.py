"""Real training frameworks under the real agent and controller: `make test-frameworks`.

They live in an environment of their own, whose Python is the training's; the product is not installed there.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runctl_testing.controller_process import House
from runctl_testing.frameworks import BIN, PROGRAMS, Watched, environment


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter that has the frameworks."""
    if not (BIN / "python").exists():
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail("in CI .venv-frameworks must be there: deploy/dev/frameworks.sh", pytrace=False)
        pytest.skip("no .venv-frameworks: `make test-frameworks` makes it")
    return str(BIN / "python")


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A controller over the embedded bus, started."""
    with House(tmp_path / "state", f"sqlite://{tmp_path / 'state' / 'bus.db'}") as made:
        yield made


@pytest.fixture
def witness(house: House) -> Watched:
    return Watched(house, house.state.parent / "diary")


@pytest.fixture
def train(house: House, witness: Watched, python: str) -> Callable[..., str]:
    """Starts `program` (of ./programs, or a path) with these arguments under runctl; its run."""

    def start(program: str | Path, *arguments: str, launcher: tuple[str, ...] = (), **changes: Any) -> str:
        command = (*(launcher or (python,)), str(PROGRAMS / program), *arguments)
        return house.submit(command=command, env=witness.env | environment(), **changes)

    return start


@pytest.fixture
def alone(python: str, tmp_path: Path) -> Callable[..., Path]:
    """Runs a program to its end without runctl and undisturbed; the folder of its checkpoints."""

    def run(program: str | Path, *arguments: str) -> Path:
        folder = tmp_path / "alone"
        folder.mkdir()
        outcome = subprocess.run(
            [python, str(PROGRAMS / program), *arguments],
            env={"PATH": os.environ["PATH"], "RUNCTL_CHECKPOINT_DIR": str(folder)} | environment(),
            capture_output=True,
            text=True,
        )
        assert outcome.returncode == 0, outcome.stderr
        return folder

    return run
