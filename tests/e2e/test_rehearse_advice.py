"""Trainings that are bad in one way each: the rehearsal says in which."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from runctl_testing.house import TINY, CommandLine, Said, command_line

# What all of them share: steps, periodic saves, and a place for their own way to be bad.
FRAME = f"""
import os, signal, sys, threading
from pathlib import Path
sys.path.insert(0, {str(TINY.parent)!r})
from tiny_train import load, save

folder = Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
asked, pause = threading.Event(), threading.Event()

def slowly(path, pieces):
    with open(path, "wb") as file:
        for _ in range(pieces):
            file.write(os.urandom(100_000))
            file.flush()
            pause.wait(0.1)

def train(at_the_signal=None, prints=True):
    if at_the_signal is not None:
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
    resume = os.environ.get("RUNCTL_RESUME_FROM")
    step, total = load(resume) if resume else (0, 0)
    while step < 5000:
        asked.wait(0.02)
        if asked.is_set():
            at_the_signal()
        step += 1
        if prints:
            print(f"step={{step}}", flush=True)
        if prints and step % 10 == 0:
            save(folder, step, total)
"""
NO_HANDLER = "train()"
UNSAVED = "train(lambda: sys.exit(0))"
TOO_BIG = 'train(lambda: slowly(folder / "big.bin", 1000))'
USAGE = "import argparse; argparse.ArgumentParser().parse_args(); train(lambda: sys.exit(0))"
RANKS = """
import subprocess
if "RANK" in os.environ:
    train(lambda: (slowly(folder / "shared.bin", 15), sys.exit(0)), prints=os.environ["RANK"] == "0")
ranks = [subprocess.Popen([sys.executable, *sys.argv], env=os.environ | {"RANK": str(n)}) for n in range(2)]
for rank in ranks:
    rank.wait()
"""


@pytest.fixture(scope="module")
def runctl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    with command_line(tmp_path_factory.mktemp("advice")) as made:
        yield made


def _rehearse(runctl: CommandLine, name: str, source: str, *options: str, notice: str = "4s") -> Said:
    words = runctl.script(f"{name}.py", FRAME + source)
    return runctl("rehearse", "--json", "--at-step", "20", "--notice", notice, *options, *words)


def _finding(said: Said) -> Any:
    (finding,) = json.loads(said.out)["findings"]
    return finding


def test_one_without_a_handler_dies_of_the_signal(runctl: CommandLine) -> None:
    """Would catch a missing handler being told as a signal that was ignored."""
    said = _rehearse(runctl, "no_handler", NO_HANDLER)
    assert said.code == 0, said
    finding = _finding(said)
    assert finding["verdict"] == "pass, with a warning"
    assert finding["why"].startswith("SIGTERM ended it")
    assert "no handler" in finding["why"]
    assert finding["exit_took"] < 4.0


def test_one_that_handles_the_signal_and_saves_nothing(runctl: CommandLine) -> None:
    """Would catch a clean exit being taken for a save."""
    finding = _finding(_rehearse(runctl, "unsaved", UNSAVED))
    assert finding["verdict"] == "pass, with a warning"
    assert "exit code 0" in finding["why"]
    assert "saved nothing" in finding["why"]


def test_one_whose_save_is_too_long_for_the_notice(runctl: CommandLine) -> None:
    """Would catch a torn file that nobody names, and a slow save that is told as none."""
    finding = _finding(_rehearse(runctl, "too_big", TOO_BIG))
    assert finding["verdict"] == "pass, with a warning"
    assert "still writing big.bin" in finding["why"]
    assert any(text.startswith("big.bin: ") for text in finding["incomplete"])


def test_one_that_does_not_know_its_resume_argument(runctl: CommandLine) -> None:
    """Would catch the checkpoint being blamed for an argument."""
    said = _rehearse(runctl, "usage", USAGE, "--resume-arg", "--go-on-from {path}")
    assert said.code == 1, said
    finding = _finding(said)
    assert "did not understand its resume argument" in finding["why"]
    assert "--go-on-from" in finding["why"]


def test_two_ranks_that_write_one_file(runctl: CommandLine) -> None:
    """Would catch ranks that overwrite each other's checkpoint, silently."""
    finding = _finding(_rehearse(runctl, "ranks", RANKS, notice="8s"))
    (tip,) = [tip for tip in finding["advice"] if "Several processes write shared.bin at once" in tip]
    assert "rank 0" in tip
    assert "rank 1" in tip


def test_periodic_checkpoints_that_are_too_far_apart(runctl: CommandLine) -> None:
    """Would catch advice that forgets what the user says of the rate of interruptions."""
    words = runctl.train("--steps", "2000", "--step-time", "0.02", "--save-every", "0")
    said = runctl("rehearse", "--json", "--at-step", "300", "--notice", "4s", "--mtbf", "10s", *words)
    assert said.code == 0, said
    (tip,) = json.loads(said.out)["advice"]
    assert "every 10s (--mtbf)" in tip
