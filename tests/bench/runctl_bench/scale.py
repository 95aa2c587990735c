"""Ten thousand agents over a hundred connections, ten minutes long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from runctl_bench.controller import heartbeats
from runctl_bench.table import Line

AGENTS, CONNECTIONS, SECONDS = 10_000, 100, 600.0


def ten_minutes(folder: Path) -> Iterator[Line]:
    """The fleet's own pace for long enough to see memory grow, if it does."""
    yield from heartbeats(folder, AGENTS, CONNECTIONS, SECONDS)
