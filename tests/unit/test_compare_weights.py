"""The demo's proof is only as good as its comparison: one bit, one name or one type of difference counts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

_SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "dev" / "compare_weights.py"
_WEIGHTS = np.array([0.0, 1.0, np.nan])


def _compare(folder: Path, first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> tuple[int, str]:
    np.savez(folder / "a.npz", **first)  # type: ignore[arg-type]  # numpy's stub takes the keywords for flags
    np.savez(folder / "b.npz", **second)  # type: ignore[arg-type]  # the same
    command = [sys.executable, str(_SCRIPT), str(folder / "a.npz"), str(folder / "b.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_same_bits_are_the_same_even_where_nan_is_not_itself(tmp_path: Path) -> None:
    assert _compare(tmp_path, {"w": _WEIGHTS}, {"w": _WEIGHTS.copy()})[0] == 0


@pytest.mark.parametrize(
    "other",
    [
        {"w": np.array([-0.0, 1.0, np.nan])},
        {"w": np.array([0.0, np.nextafter(1.0, 2.0), np.nan])},
        {"w": _WEIGHTS.astype(np.float32)},
        {"w": _WEIGHTS.reshape(3, 1)},
        {"w": _WEIGHTS, "b": _WEIGHTS},
        {"v": _WEIGHTS},
    ],
    ids=["sign of zero", "last bit", "type", "shape", "one more", "another name"],
)
def test_any_difference_is_one(tmp_path: Path, other: dict[str, np.ndarray]) -> None:
    code, said = _compare(tmp_path, {"w": _WEIGHTS}, other)
    assert code == 1
    assert "differ" in said


def test_two_empty_files_prove_nothing(tmp_path: Path) -> None:
    assert _compare(tmp_path, {}, {})[0] == 1


def test_what_is_no_npz_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("no")
    command = [sys.executable, str(_SCRIPT), str(tmp_path / "a"), str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
