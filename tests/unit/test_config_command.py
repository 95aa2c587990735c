"""``runctl config`` as its user meets it: a process, its output, its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


class Shell:
    """A home and a project of one's own."""

    def __init__(self, root: Path) -> None:
        self.project = root / "project"
        self.file = self.project / ".runctl.toml"
        self.project.mkdir()
        kept = {name: text for name, text in os.environ.items() if not name.startswith(("RUNCTL_", "XDG_"))}
        self.environ = kept | {"HOME": str(root / "home")}

    def config(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "runctl_controller.cli.main", "config", *words]
        environ = self.environ | variables
        return subprocess.run(
            command, cwd=self.project, env=environ, capture_output=True, text=True, check=False
        )


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_show_tells_every_value_and_where_it_comes_from(shell: Shell) -> None:
    shell.file.write_text('grace = "2m"\nbus_url = "amqps://me:hunter2@broker.example/"')
    shell.file.chmod(0o600)
    said = shell.config("show", RUNCTL_MAX_HOURS="12")
    rows = [line.split(maxsplit=2) for line in said.stdout.splitlines()]
    assert (said.returncode, said.stderr, rows[0]) == (0, "", ["key", "value", "where from"])
    assert ["grace", "120s", str(shell.file)] in rows
    assert ["bus_url", "amqps://me:***@broker.example/", str(shell.file)] in rows
    assert ["max_hours", "12", "environment RUNCTL_MAX_HOURS"] in rows
    assert ["resume_arg", "-", "default"] in rows
    assert "hunter2" not in shell.config("show", "--json").stdout


def test_show_as_json(shell: Shell) -> None:
    shell.file.write_text('grace = "2m"')
    said = json.loads(shell.config("show", "--json").stdout)
    assert said["grace"] == {"value": 120.0, "source": str(shell.file)}
    assert said["bus_url"] == {"value": None, "source": "default"}


def test_validate_says_in_one_line_that_all_is_well(shell: Shell) -> None:
    shell.file.write_text('grace = "2m"')
    said = shell.config("validate")
    assert (said.returncode, said.stdout) == (0, f"The settings are valid ({shell.file} read).\n")
    assert json.loads(shell.config("validate", "--json").stdout) == {
        "valid": True,
        "files": [str(shell.file)],
    }


@pytest.mark.parametrize("command", ["validate", "show"])
def test_everything_wrong_is_told_without_a_traceback(shell: Shell, command: str) -> None:
    shell.file.write_text('grace = "soon"\nprojct = "x"')
    said = shell.config(command, RUNCTL_IDLE="never")
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr.splitlines() == [
        "runctl: 3 settings are wrong:",
        "  RUNCTL_IDLE: 'never' is not a duration. Write it like 90s, 2m or 1h30m.",
        f"  {shell.file}, projct: There is no such setting. Did you mean project?",
        f"  {shell.file}, grace: 'soon' is not a duration. Write it like 90s, 2m or 1h30m.",
    ]
    error = json.loads(shell.config(command, "--json", RUNCTL_IDLE="never").stderr)["error"]
    assert (error["code"], error["what"].count("\n")) == ("usage", 3)


def test_one_wrong_thing_is_a_sentence_and_its_mend(shell: Shell) -> None:
    shell.file.write_text("project = ")
    said = shell.config("validate")
    assert said.returncode == 2
    assert said.stderr == (
        f"runctl: {shell.file}, line 1, column 11: This is not TOML: Invalid value.\n"
        '        Write it like project = "cats".\n'
    )
