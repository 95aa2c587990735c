"""Say whether two checkpoints hold the same state, bit for bit: `compare.py A.pt B.pt`.

The files themselves may differ though: how a pickle refers to a text it has seen before is not part of the
state.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from digits_state import Refused, read_saved


def leaves(content: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Everything in nested dictionaries and lists, each with its place."""
    if isinstance(content, (dict, list, tuple)):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from leaves(value, f"{name}/{key}")
    elif isinstance(content, torch.Tensor):
        # Bits and not numbers: NaN equals itself here, and -0.0 is not 0.0.
        bits = content.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield name, (str(content.dtype), tuple(content.shape), bits)
    else:
        yield name, content


def differences(first: Path, second: Path) -> list[str]:
    """The names of what is not the same in both."""
    left, right = dict(leaves(read_saved(first))), dict(leaves(read_saved(second)))
    if not left:
        return [f"{first} holds nothing, so it proves nothing"]
    return sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit("usage: compare.py A.pt B.pt")
    try:
        found = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    except Refused as error:
        sys.exit(f"compare.py: {error}")
    if found:
        sys.exit("they differ: " + ", ".join(found))
    print("the same, bit for bit")


if __name__ == "__main__":
    main()
