"""Secrets of local runs: a file of mode 600 beside the state, and nowhere else.

The local provider reads it when it launches a machine; the controller removes it when the run is over for
good.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from runctl_shared.errors import StoreUnusable


def secrets_file(state_dir: str | Path, run: str) -> Path:
    return Path(state_dir) / "secrets" / f"{run}.json"


def write_secrets(state_dir: str, run: str, values: Mapping[str, str]) -> None:
    """Keep `values` for the run; without any, no file is made. Raises StoreUnusable."""
    if not values:
        return
    path = secrets_file(state_dir, run)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        # Exclusively: the run's id was drawn just now, so whatever lies there is not ours.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            json.dump(dict(values), stream)
    except OSError as error:
        raise StoreUnusable(
            f"The secrets cannot be kept in {path.parent}: {error.strerror}.",
            "Choose another state folder with RUNCTL_STATE_DIR, or mend its permissions.",
        ) from error


def remove_secrets(state_dir: str | Path, run: str) -> None:
    secrets_file(state_dir, run).unlink(missing_ok=True)
