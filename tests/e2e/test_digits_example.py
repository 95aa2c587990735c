"""The example's promise: however often it is interrupted, its final weights are the same, bit for bit."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "digits" / "train.py"
STEPS = re.compile(r"step=(\d+) ")
# 12 epochs of 45 steps. What is saved every 7 steps lies in the middle of epochs.
EPOCHS, LAST_STEP = "12", 540
EVERY_7_STEPS = ("--epochs", EPOCHS, "--step-time", "0", "--log-every", "1", "--save-every-steps", "7")


class Training:
    """The real script as a process of its own; its output is read up to where a test wants to act."""

    def __init__(self, out: Path | None, *options: str, **environment: str) -> None:
        # nor what would flush each line in the script's stead
        ours = ("RUNCTL_", "PYTHONUNBUFFERED")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *(["--out", str(out)] if out else []), *options],
            env=clean | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.output = ""
        # Reading blocks; a script that hangs is ended, and the test fails by what is then missing.
        self._limit = threading.Timer(60, self.process.kill)
        self._limit.start()

    def read_to_step(self, step: int) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.output += line
            found = STEPS.match(line)
            if found and int(found[1]) >= step:
                return
        raise AssertionError(f"ended before step {step}: {self.finish()}")

    def finish(self) -> tuple[int, str, str]:
        """Exit code, everything printed, errors."""
        rest, errors = self.process.communicate()
        self._limit.cancel()
        return self.process.returncode, self.output + rest, errors

    def kill(self) -> None:
        self.process.kill()
        self.finish()


def train(out: Path | None, *options: str, **environment: str) -> tuple[int, str, str]:
    return Training(out, *options, **environment).finish()


def contents(path: Path) -> dict[str, tuple[object, ...]]:
    """Every array of a checkpoint, in its exact bits."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def steps_saved(out: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in out.glob("step-*.npz"))


def first_step(output: str) -> int:
    found = STEPS.search(output)
    assert found, output
    return int(found[1])


class Uninterrupted(NamedTuple):
    out: Path
    output: str

    def final(self) -> dict[str, tuple[object, ...]]:
        return contents(self.out / "final.npz")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Uninterrupted:
    out = tmp_path_factory.mktemp("uninterrupted")
    code, output, errors = train(out, *EVERY_7_STEPS)
    assert (code, errors) == (0, "")
    return Uninterrupted(out, output)


def test_it_learns_to_read(uninterrupted: Uninterrupted) -> None:
    accuracies = [float(share) for share in re.findall(r"accuracy=(\S+)", uninterrupted.output)]
    assert len(accuracies) == int(EPOCHS)
    assert accuracies[-1] > 0.9
    losses = [float(loss) for loss in re.findall(r"loss=(\S+)", uninterrupted.output)]
    assert losses[-1] < losses[0] / 4


def test_it_saves_as_told_and_keeps_the_newest(uninterrupted: Uninterrupted) -> None:
    names = sorted(path.name for path in uninterrupted.out.iterdir())
    assert names == ["final.npz", "step-000525.npz", "step-000532.npz", "step-000539.npz"]
    assert int(np.load(uninterrupted.out / "final.npz")["step"]) == LAST_STEP


def test_finished_then_given_more_epochs_then_stopped_by_sigterm(
    uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    fast = ("--step-time", "0.005", "--save-every", "0.1")
    code, output, errors = train(tmp_path, "--epochs", "2", *fast)
    assert (code, errors) == (0, "")
    assert 0 < output.count("saved ") < 45  # by the clock: sometimes, not at each of the 90 steps
    assert len(STEPS.findall(output)) < 10

    # In a folder final.npz is the newest. A step is long enough for the signal to arrive before the end.
    slow = ("--epochs", EPOCHS, "--step-time", "0.05", "--save-every", "999", "--log-every", "1")
    training = Training(tmp_path, *slow, "--resume", str(tmp_path))
    training.read_to_step(100)
    training.process.send_signal(signal.SIGTERM)
    code, output, errors = training.finish()
    assert (code, errors) == (143, "")
    assert first_step(output) == 91
    saved = steps_saved(tmp_path)[-1]
    assert saved == int(STEPS.findall(output)[-1])  # where it stopped, not some step before
    assert saved < 300  # a line that waited for a full buffer would have reached us later than that

    code, output, errors = train(
        tmp_path / "else",
        *EVERY_7_STEPS,
        *("--resume", str(tmp_path / f"step-{saved:06d}.npz")),
        RUNCTL_RESUME_FROM=str(tmp_path / "nowhere"),  # the option wins
    )
    assert (code, errors) == (0, "")
    assert first_step(output) == saved + 1
    assert contents(tmp_path / "else" / "final.npz") == uninterrupted.final()


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_random_moments(uninterrupted: Uninterrupted, tmp_path: Path, kills: int) -> None:
    """Saving at every step, it is most of the time in the middle of a save."""
    options = (*EVERY_7_STEPS[:-1], "1")
    environment = {"RUNCTL_CHECKPOINT_DIR": str(tmp_path)}
    chance = random.Random()
    reached = 0
    for _ in range(kills):
        training = Training(None, *options, **environment)
        training.read_to_step(reached + chance.randint(2, 30))
        training.kill()
        assert steps_saved(tmp_path)[-1] > reached
        reached = steps_saved(tmp_path)[-1]
        environment["RUNCTL_RESUME_FROM"] = str(tmp_path)

    code, output, errors = train(None, *options, **environment)
    assert (code, errors) == (0, "")
    assert first_step(output) == reached + 1
    assert contents(tmp_path / "final.npz") == uninterrupted.final()
    assert list(tmp_path.glob(".*")) == []  # the save that was cut off


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def zeroed_page(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:8192] + bytes(4096) + data[12288:])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def pickled(path: Path) -> None:
    """Unpickling runs whatever the file says."""
    path.write_bytes(b"cos\nsystem\n(S'touch \"$PWNED\"'\ntR.")


def foreign(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, step=np.array(3), weights=np.zeros(3))


@pytest.mark.parametrize("damage", [torn, zeroed_page, empty, pickled, foreign, Path.unlink])
def test_a_checkpoint_that_is_no_good_is_refused_in_one_line(
    uninterrupted: Uninterrupted, tmp_path: Path, damage: object
) -> None:
    path = tmp_path / "step-000539.npz"
    path.write_bytes((uninterrupted.out / "step-000539.npz").read_bytes())
    assert callable(damage)
    damage(path)
    out, pwned = tmp_path / "out", tmp_path / "pwned"
    code, output, errors = train(out, *EVERY_7_STEPS, "--resume", str(path), PWNED=str(pwned))
    assert (code, output) == (2, "")
    assert_one_line(errors, str(path))
    assert not pwned.exists()


def assert_one_line(errors: str, about: str) -> None:
    assert errors.startswith("train.py: ")
    assert errors.count("\n") == 1
    assert about in errors


@pytest.mark.parametrize(
    ("options", "about"),
    [
        (["--resume", "{empty}"], "no checkpoint"),
        (["--resume", "{done}", "--hidden", "64"], "--hidden 128"),
        (["--resume", "{done}", "--seed", "2"], "--seed 1"),
        (["--resume", "{done}", "--epochs", "3"], "past --epochs 3"),
        (["--out", "{file}"], "{file}"),
        (["--epochs", "0"], "--epochs"),
        (["--step-time", "nan"], "--step-time"),
        (["--save-every", "1", "--save-every-steps", "1"], "not allowed with"),
        (["--ephocs", "3"], "--ephocs"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    uninterrupted: Uninterrupted, tmp_path: Path, options: list[str], about: str
) -> None:
    names = {"empty": str(tmp_path), "done": str(uninterrupted.out), "file": str(SCRIPT)}
    code, output, errors = train(tmp_path / "out", *(option.format(**names) for option in options))
    assert (code, output) == (2, "")
    assert_one_line(errors, about.format(**names))
