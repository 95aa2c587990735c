"""Which bus a URL means."""

from __future__ import annotations

import subprocess
import sys

import pytest

from runctl_shared.bus.connect import connect
from runctl_shared.clock import SystemClock
from runctl_shared.errors import UsageError


def test_the_way_to_the_bus_costs_nothing_until_it_is_taken() -> None:
    """A command line that pays for SQLite, pika and msgspec before it knows what it is asked."""
    heavy = "{'sqlite3', 'pika', 'msgspec', 'concurrent.futures', 'asyncio'}"
    program = f"import sys, runctl_shared.bus.connect; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "bus.db",
        "sqlite:bus.db",
        "sqlite://bus.db",
        "sqlite:///",
        "sqlite:///folder/",
        "http://u:secret@h/",
    ],
)
def test_any_other_url_is_refused_with_those_that_would_do(url: str) -> None:
    """A file made in whatever folder one happens to be in; a password printed with the error."""
    with pytest.raises(UsageError, match="sqlite:///") as caught:
        connect(url, clock=SystemClock())
    assert "secret" not in str(caught.value)
