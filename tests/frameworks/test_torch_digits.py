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


def start(python: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [python, SCRIPT, "--epochs", "2", "--save-every", "0.2", "--log-every", "1", *options],
        env={"PATH": os.environ["PATH"]} | environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_the_whole_group_costs_no_bit(
    number: signal.Signals, python: str, alone: Callable[..., Path], tmp_path: Path
) -> None:
    """Loader workers that die of the signal and take the save with them; a checkpoint torn by a SIGKILL."""
    whole = alone(SCRIPT, "--epochs", "2", "--step-time", "0")
    out = str(tmp_path / "out")
    first = start(python, "--out", out, "--step-time", "0.05")
    try:
        eventually(lambda: len(list(Path(out).glob("step-*.pt"))) > 1, what="two checkpoints")
        os.killpg(first.pid, number)
        said = first.communicate()[0]
    finally:
        first.kill()
    assert first.returncode == (143 if number == signal.SIGTERM else -9), said
    second = start(python, "--out", out, "--resume", out, "--step-time", "0")
    said = second.communicate()[0]
    assert second.returncode == 0, said
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
    training = start(python, "--out", str(path.parent), "--resume", str(path))
    said = training.communicate()[0]
    assert (training.returncode, said.count("\n")) == (2, 1), said
    assert "is damaged" in said
