"""What a training finds in its environment: what is meant for it, and nothing of who started the machine."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from runctl_agent.edges.place import Place
from runctl_agent.edges.training import Training
from runctl_shared.clock import SystemClock
from runctl_shared.spec import Boot
from runctl_testing.checkpoints import SPEC

SAY = "import json, os; print(json.dumps(dict(os.environ)))"


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., dict[str, str]]:
    def run(secrets: dict[str, str] | None = None, **env: str) -> dict[str, str]:
        """The environment of a training whose spec has `env`, as it sees it."""
        place = Place(tmp_path / "machine")
        place.prepare()
        place.secrets.write_text(json.dumps(secrets or {}))
        spec = msgspec.structs.replace(
            SPEC, command=(sys.executable, "-c", SAY), workdir="/", env=env, secrets=tuple(secrets or {})
        )
        boot = Boot(agent="agent-abcd1234-1", attempt=3, spec=spec, bus="", hard_end=60.0)
        over = threading.Event()
        Training(place, boot, SystemClock(), lambda code, signal: over.set()).start("/resume/here")
        assert over.wait(60)
        found: dict[str, str] = json.loads(place.output.read_text())
        return found

    return run


def test_it_inherits_nothing_that_might_be_a_key(
    train: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "RUNCTL_BUS", "PYTHONPATH", "XPATH", "HOMEBREW"):
        monkeypatch.setenv(name, "hush")
    assert "hush" not in train().values()


def test_it_inherits_what_programs_need_to_find_their_way(
    train: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {
        name: f"/of/{name}" for name in ("HOME", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    }
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    assert wanted.items() <= train().items()


def test_it_bears_the_marks_of_its_machine_and_of_its_attempt(
    train: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whoever ends the machine finds its processes by them, also those that left the family."""
    marks = {"RUNCTL_MACHINE": "agent-abcd1234-1", "RUNCTL_MACHINE_DIR": "/state/machines/one"}
    for name, value in marks.items():
        monkeypatch.setenv(name, value)
    found = train()
    assert marks.items() <= found.items()
    assert (found["RUNCTL_RUN"], found["RUNCTL_ATTEMPT"]) == (SPEC.run, "3")
    assert found["RUNCTL_CHECKPOINT_DIR"] == str(tmp_path / "machine" / "checkpoints")
    assert found["RUNCTL_RESUME_FROM"] == "/resume/here"


def test_the_runs_own_environment_and_secrets_come_first(
    train: Callable[..., dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    found = train({"TOKEN": "hush"}, TZ="Europe/Vienna", TOKEN="public", PYTHONUNBUFFERED="", RUNCTL_RUN="x")
    assert (found["TZ"], found["TOKEN"], found["PYTHONUNBUFFERED"]) == ("Europe/Vienna", "hush", "")
    assert found["RUNCTL_RUN"] == SPEC.run
