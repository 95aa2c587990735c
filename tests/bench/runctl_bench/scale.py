"""Ten thousand agents over a hundred connections, ten minutes long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runctl_bench.controller import heartbeats
from runctl_bench.table import Line

SECONDS, CONNECTIONS = 600.0, 100


def ten_minutes(folder: Path) -> Iterator[Line]:
    """The fleet's own pace for long enough to see memory grow, if it does."""
    yield from heartbeats(folder, SECONDS, CONNECTIONS)
