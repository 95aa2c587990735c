"""A whole house over a broker that confines its agents: a run must not notice, and nothing may stay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runctl_controller.access.port import Agents
from runctl_shared.messages.replies import Done
from runctl_shared.messages.requests import InterruptRun
from runctl_testing.aftermath import Witness
from runctl_testing.confined import CONFINED, Estate
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually

PASSWORDS = (b"runctl-controller", b"runctl-client", b"guest")


@pytest.fixture(params=CONFINED, ids=lambda way: way.value)
def way(request: pytest.FixtureRequest) -> Agents:
    return Agents(request.param)


@pytest.fixture
def housed(estate: Estate, way: Agents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setenv("RUNCTL_BUS_URL", estate.url)  # as a user's shell has it
    with estate.house(way, tmp_path / "state") as made:
        yield made


def test_a_run_trains_is_interrupted_and_resumes(estate: Estate, housed: House, way: Agents) -> None:
    """An agent without a right that it needs; a controller that starts again and locks its agents out; a
    user, queue or login that outlives its machine; the controller's own password on a machine."""
    witness = Witness(housed)
    run = housed.submit("--steps", "200", env=witness.env)
    housed.kill()  # about to make the login, to launch, or just after
    housed.start()
    housed.wait_training(run, saved=10)
    witness.look(run)
    housed.client.ask(InterruptRun(run=run, notice=4.0), Done)
    _no_password_of_ours(housed, run)
    assert len(estate.users_of(run)) >= (way is Agents.USER)
    first, second = housed.wait_final(run).attempts
    assert (first.reason, second.reason) == ("interrupted", "succeeded")
    assert first.saved_step == second.restored_step
    witness.check(run)
    eventually(lambda: not [queue for queue in estate.queues() if "agent-" in queue], what="no queue is left")
    eventually(lambda: not estate.users_of(run), what="no user is left")
    eventually(lambda: not list((housed.state / "access").iterdir()), what="no login is left")


def _no_password_of_ours(house: House, run: str) -> None:
    """Neither in a file of the machine, nor in the environment of a process of it, nor in the store."""
    found = []
    for path in house.state.rglob("*"):
        with contextlib.suppress(OSError):  # gone meanwhile, a pipe, a folder
            if "access" not in path.parts and path.name != "login.json" and path.is_file():
                found += [path] if _held(path.read_bytes()) else []
    assert found == []
    login = next((house.state / "machines").rglob("login.json"))
    assert login.stat().st_mode & 0o777 == 0o600
    assert not _held(login.read_bytes())
    agent = house.agent(run)
    for process in (agent, *agent.children(recursive=True), psutil.Process(agent.ppid())):
        assert not _held(repr((process.environ(), process.cmdline())).encode())


def _held(content: bytes) -> list[bytes]:
    return [word for word in PASSWORDS if b":" + word in content or b'"' + word + b'"' in content]
