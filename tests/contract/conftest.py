"""What the conformance suites share."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_testing.buses import Buses


@pytest.fixture(params=["embedded", pytest.param("amqp", marks=pytest.mark.amqp)])
def buses(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Buses]:
    """A fresh bus of each kind."""
    if request.param == "embedded":
        url = f"sqlite://{tmp_path}/bus.db"
    else:
        # The broker is shared: everything that this test declares carries a prefix of its own.
        url = f"{request.getfixturevalue('amqp_url')}?prefix=t{secrets.token_hex(4)}"
    buses = Buses(url)
    yield buses
    buses.close()
