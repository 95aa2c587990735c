"""A broker that is there and says no, and one that is not there: a sentence each, and nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest


def _runctl(state: Path, bus: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "runctl_controller.cli.main", *arguments],
        env=os.environ | {"RUNCTL_STATE_DIR": str(state), "RUNCTL_BUS_URL": bus},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.amqp
def test_a_wrong_password(amqp_url: str, tmp_path: Path) -> None:
    at = urlsplit(amqp_url)
    bus = f"amqp://{at.username}:not-the-password@{at.hostname}:{at.port}{at.path}"
    for command in (["ls"], ["controller", "start"]):
        done = _runctl(tmp_path, bus, *command)
        assert done.returncode != 0
        assert "refuse" in done.stderr
        assert "not-the-password" not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) <= 2


def test_no_broker_there(tmp_path: Path) -> None:
    # Port 9 is the discard service's: nothing listens there.
    done = _runctl(tmp_path, "amqp://guest:guest@127.0.0.1:9/%2f", "ls")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert 1 <= len(done.stderr.strip().splitlines()) <= 2
