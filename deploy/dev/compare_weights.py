"""Say whether two .npz files hold the same arrays, bit for bit: `compare_weights.py A.npz B.npz`."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import numpy


def differences(first: Path, second: Path) -> list[str]:
    """One line for each array that is not the same in both, to the last bit; empty when all are.

    Bits and not numbers are compared: NaN equals itself here, and -0.0 is not 0.0.
    Raises ValueError or OSError for a file that is no .npz or holds pickled objects.
    """
    with numpy.load(first, allow_pickle=False) as left, numpy.load(second, allow_pickle=False) as right:
        if not left.files:
            return [f"{first} holds no array, so it proves nothing"]
        found = [f"{name}: only in one of the two" for name in sorted(set(left.files) ^ set(right.files))]
        for name in sorted(set(left.files) & set(right.files)):
            ours, theirs = left[name], right[name]
            if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
                found.append(f"{name}: {ours.dtype}{ours.shape} against {theirs.dtype}{theirs.shape}")
            elif ours.tobytes() != theirs.tobytes():
                found.append(f"{name}: {int((ours != theirs).sum())} of {ours.size} values differ")
        return found


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: compare_weights.py A.npz B.npz")
    try:
        found = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"compare_weights: cannot compare: {error}")
    if found:
        sys.exit("the weights differ:\n  " + "\n  ".join(found))
    print("the weights are the same, bit for bit")


if __name__ == "__main__":
    main()
