"""The networks that faults are done to: an experiment that leaves something behind spoils the next."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runctl_testing import netns

_MAKE = """
import os, signal
from runctl_testing.netns import network
with network() as net:
    print(net.name, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def _possible() -> None:
    try:
        with netns.network():
            pass
    except netns.Unavailable as reason:
        pytest.skip(str(reason))


def test_what_a_killed_test_run_left_is_removed_by_the_next() -> None:
    """Networks that pile up until somebody restarts the machine."""
    env = os.environ | {"PYTHONPATH": str(Path(netns.__file__).parents[1])}
    killed = subprocess.run(
        [sys.executable, "-c", _MAKE], env=env, capture_output=True, text=True, check=False
    )
    left = killed.stdout.strip()
    assert (killed.returncode, bool(left)) == (-signal.SIGKILL, True), killed.stderr
    with netns.network():  # it may be another test process's that has removed it just now
        assert not Path("/run/netns", left).exists()


def test_nothing_is_left_and_what_lives_is_spared() -> None:
    """One test run that takes away the network of another's; a cable without its network."""
    with netns.network() as other:
        with netns.network() as net:
            assert Path("/run/netns", other.name).exists()
        assert not Path("/run/netns", net.name).exists()
        assert Path("/run/netns", other.name).exists()
    cables = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True).stdout
    for gone in (net, other):
        assert f" {gone._cable}@" not in cables
