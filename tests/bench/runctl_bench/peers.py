"""Other people's command lines, measured beside ours where somebody has installed them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = "RUNCTL_BENCH_PEERS"
"""The environment variable that names a folder of programs, such as the `bin` of a virtual environment into
which `skypilot` and `dstack` were installed."""


def peers() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Name and command of each that is there."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return
    for name, program in (("SkyPilot", "sky"), ("dstack", "dstack")):
        path = Path(folder) / program
        if os.access(path, os.X_OK):
            yield name, (str(path), "--version")
