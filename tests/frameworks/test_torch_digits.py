"""The PyTorch example without runctl: what it promises by itself."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runctl_testing.eventually import eventually
from runctl_testing.frameworks import TORCH_DIGITS, environment

SCRIPT = str(TORCH_DIGITS / "train.py")


OPTIONS = ("--epochs", "2", "--save-every", "0.2", "--log-every", "1")


def environ() -> dict[str, str]:
    return {"PATH": os.environ["PATH"]} | environment()


def run(python: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The script to its end."""
    command = [python, SCRIPT, *OPTIONS, *options]
    return subprocess.run(command, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def interrupted(python: str, out: Path, number: signal.Signals) -> int:
    """The script, its whole process group sent `number` once it has saved twice; its exit code."""
    command = [python, SCRIPT, *OPTIONS, "--out", str(out), "--step-time", "0.05"]
    with subprocess.Popen(
        command, env=environ(), stdout=subprocess.DEVNULL, start_new_session=True
    ) as training:
        try:
            eventually(lambda: len(list(out.glob("step-*.pt"))) > 1, timeout=300, what="two checkpoints")
        finally:
            os.killpg(training.pid, number)
        return training.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_whole_group_costs_no_bit(
    number: signal.Signals, python: str, alone: Callable[..., Path], tmp_path: Path
) -> None:
    """Loader workers that die of the signal and take the save with them; a checkpoint torn by a SIGKILL."""
    whole = alone(SCRIPT, "--epochs", "2", "--step-time", "0")
    out = tmp_path / "out"
    code = interrupted(python, out, number)
    assert code == (143 if number == signal.SIGTERM else -9)
    second = run(python, "--out", str(out), "--resume", str(out), "--step-time", "0")
    assert second.returncode == 0, second.stdout
    compare = [python, str(TORCH_DIGITS / "compare.py"), str(whole / "final.pt"), f"{out}/final.pt"]
    assert subprocess.run(compare, capture_output=True, text=True).stdout == "the same, bit for bit\n"


@pytest.mark.parametrize("damage", ["torn", "zeroed"])
def test_a_damaged_checkpoint_is_refused_in_one_line(
    damage: str, python: str, alone: Callable[..., Path]
) -> None:
    """A page of zeros, which torch.load alone takes for weights."""
    path = alone(SCRIPT, "--epochs", "1", "--step-time", "0") / "final.pt"
    data = path.read_bytes()
    half = len(data) // 2
    path.write_bytes(data[:half] if damage == "torn" else data[:half] + bytes(4096) + data[half + 4096 :])
    refused = run(python, "--out", str(path.parent), "--resume", str(path))
    assert (refused.returncode, refused.stdout.count("\n")) == (2, 1), refused.stdout
    assert "is damaged" in refused.stdout
