"""A command that was started with closed standard streams, as `runctl ls >&-` does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-P", "-m", "runctl_controller.cli.main")


def _closed(tmp_path: Path, closed: str, *words: str) -> subprocess.CompletedProcess[str]:
    env = {"RUNCTL_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    shell = ["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, *words]
    return subprocess.run(shell, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)


def test_watching_with_stdout_closed_is_refused_in_a_sentence(tmp_path: Path) -> None:
    """Would catch None being asked whether it is a terminal."""
    said = _closed(tmp_path, ">&-", "ls", "--watch")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.startswith("runctl: --watch needs a terminal.")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_changes_nothing_else(tmp_path: Path, closed: str) -> None:
    """Would catch a table that fails for want of a stdout, and a file opened under the number 1 or 2."""
    said = _closed(tmp_path, closed, "config", "show")
    assert said.returncode == 0, said
    assert said.stderr == ""
    assert ("state_dir" in said.stdout) == (">&-" not in closed.replace("2>&-", ""))


def test_a_failure_is_not_printed_on_stdout_for_want_of_stderr(tmp_path: Path) -> None:
    """Would catch an error message among the data of a pipe."""
    said = _closed(tmp_path, "2>&-", "nonsense")
    assert (said.returncode, said.stdout) == (2, "")
