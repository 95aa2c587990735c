"""The programs behind tests/unit/progress_samples, with the versions that are installed now."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runctl_agent.progress.sampler import LineSampler
from runctl_agent.progress.tracker import ProgressTracker
from runctl_testing.frameworks import PROGRAMS, environment

# What is said at the end: step, of how many, epoch. `lightning_fit.py` and `hf_trainer.py` are held by
# test_interrupted.py, where the first step after a resume proves it.
SAID = {
    "bars.py plain": (60, 60, None),
    "bars.py postfix": (60, 60, None),
    "bars.py slow": (3, 3, None),
    "bars.py scaled": (25_000, 25_000, None),
    "bars.py samples": (None, None, None),
    "bars.py nested": (90, 90, 3),
    "bars.py epochs": (90, None, 3),
    "bars.py unknown": (60, None, None),
    "bars.py resumed": (60, 60, None),
    "bars.py among_lines": (60, 60, None),
    "keras_fit.py 1": (72, 72, 3),
    "keras_fit.py 2": (72, 72, 3),
    "lightning_fit.py --epochs 2 --step-time 0.01": (60, None, 1),
    "lightning_fit.py --epochs 2 --step-time 0.01 --rich": (60, 60, 1),
    "hf_trainer.py --steps 60 --step-time 0.01": (60, 60, 3.75),
}


@pytest.mark.parametrize("command", SAID)
def test_what_is_printed_is_understood(command: str, python: str, tmp_path: Path) -> None:
    """A new version of a framework that prints in another way."""
    program, *arguments = command.split()
    output = tmp_path / "output"
    with output.open("wb") as file:
        subprocess.run(
            [python, str(PROGRAMS / program), *arguments],
            env={"PATH": os.environ["PATH"], "RUNCTL_CHECKPOINT_DIR": str(tmp_path)} | environment(),
            stdout=file,
            stderr=file,
            check=True,
        )
    sampler, tracker = LineSampler(), ProgressTracker()
    for tick, line in enumerate(output.read_bytes().splitlines(keepends=True)):
        for progress in sampler.feed(line, float(tick)):
            tracker.observe(progress, wall=0.0, tick=float(tick))
    for progress in sampler.end():
        tracker.observe(progress, wall=0.0, tick=0.0)
    assert (tracker.step, tracker.total, tracker.epoch) == SAID[command]
