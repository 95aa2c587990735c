"""`runctl broker`: a private RabbitMQ from the command line, and a run over it."""

from __future__ import annotations

import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from runctl_controller.broker.node import MARK
from runctl_controller.broker.server import find_server
from runctl_shared.errors import NotFound
from runctl_testing.eventually import eventually
from runctl_testing.house import PATIENCE, CommandLine, command_line, finished
from runctl_testing.leftovers import end_marked, marked

pytestmark = pytest.mark.amqp


@pytest.fixture
def runctl(tmp_path: Path) -> Iterator[CommandLine]:
    try:
        find_server()
    except NotFound as error:
        if os.environ.get("CI", "").lower() not in ("", "0", "false"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    with command_line(tmp_path) as made:
        try:
            yield made
        finally:
            left = [process.pid for process in _processes(made)]
            end_marked(MARK, str(made.state / "broker"))
            assert left == []


def _processes(runctl: CommandLine) -> list[psutil.Process]:
    return list(marked(MARK, str(runctl.state / "broker")))


def _url(out: str) -> str:
    found = re.fullmatch(r"export RUNCTL_BUS_URL=(amqp://runctl:\w{20,}@127\.0\.0\.1:\d+/%2F)\n", out)
    assert found is not None, out
    return found[1]


def test_a_run_over_a_detached_broker_which_keeps_its_url_over_a_restart(runctl: CommandLine) -> None:
    """Would catch a line that no shell can use, and a broker that cannot serve what it was made for."""
    said = runctl("broker", "dev", "--detach")
    assert said.code == 0, said
    url = _url(said.out)
    assert "runctl controller start" in said.err
    assert runctl("broker", "dev", "--detach").code == 4

    runctl.env["RUNCTL_BUS_URL"] = url
    try:
        assert runctl("controller", "start").code == 0
        trained = runctl("run", *runctl.train("--steps", "5"))
        assert finished(5) in trained.out
        eventually(lambda: runctl("controller", "stop").code == 0, PATIENCE, 1.0, "its machine to be gone")
    finally:
        del runctl.env["RUNCTL_BUS_URL"]

    assert runctl("broker", "stop").code == 0
    assert _processes(runctl) == []
    assert runctl("broker", "status").code == 3
    assert runctl.json("broker", "stop") == {"stopped": False}

    assert runctl.json("broker", "dev", "--detach")["url"] == url
    assert runctl.json("broker", "status")["url"] == url
    assert runctl("broker", "stop").code == 0


def test_in_the_foreground_it_is_gone_after_ctrl_c(runctl: CommandLine) -> None:
    """Would catch an Erlang that outlives its command, and secrets that others may read."""
    started = runctl.start("broker", "dev")
    started.until("export RUNCTL_BUS_URL")
    password = _url(started.out).split(":")[2].partition("@")[0]
    holding = [
        path
        for path in (runctl.state / "broker").rglob("*")
        if path.is_file() and password.encode() in path.read_bytes()
    ]
    assert holding
    assert {stat.S_IMODE(path.stat().st_mode) for path in holding if path.parent.name == "broker"} == {0o600}
    assert stat.S_IMODE((runctl.state / "broker").stat().st_mode) == 0o700
    for process in _processes(runctl):
        assert password not in " ".join(process.cmdline())

    started.signal(signal.SIGINT)
    assert started.wait().code == 0
    assert _processes(runctl) == []


def test_told_to_end_while_it_starts_it_is_gone_as_well(runctl: CommandLine) -> None:
    """Would catch a node that nobody ends because nobody was told yet that it had started."""
    started = runctl.start("broker", "dev")
    eventually(lambda: _processes(runctl), PATIENCE, what="its first process")
    started.signal(signal.SIGTERM)
    assert started.wait().code in (0, 130)
    assert _processes(runctl) == []


def test_one_whose_command_was_killed_is_found_and_ended(runctl: CommandLine) -> None:
    """Would catch an orphan that no command knows of."""
    started = runctl.start("broker", "dev")
    started.until("export RUNCTL_BUS_URL")
    started.signal(signal.SIGKILL)
    started.process.wait(PATIENCE)
    assert runctl.json("broker", "status")["url"] == _url(started.out)
    assert runctl.json("broker", "stop") == {"stopped": True}


def test_a_node_that_dies_is_told_with_its_log(runctl: CommandLine) -> None:
    """Would catch a foreground command that waits for ever for a broker that is gone."""
    started = runctl.start("broker", "dev")
    started.until("export RUNCTL_BUS_URL")
    end_marked(MARK, str(runctl.state / "broker"))
    said = started.wait()
    assert said.code == 125, said
    assert "ended by itself" in said.err


def test_without_a_rabbitmq_it_is_said_how_to_get_one(
    runctl: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Would catch a FileNotFoundError where a sentence belongs."""
    monkeypatch.setattr("runctl_controller.broker.server.DEBIANS", tmp_path / "usr" / "not-there")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound) as told:
        find_server(tmp_path)
    assert "apt-get install rabbitmq-server" in told.value.mend
    assert "docker run" in told.value.mend


def test_an_unpacked_one_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Would catch a user without root who unpacked it for nothing."""
    monkeypatch.setattr("runctl_controller.broker.server.DEBIANS", Path("/usr/lib/rabbitmq/bin/not-there"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "rabbitmq").mkdir()
    (tmp_path / "rabbitmq" / "complete").touch()
    server = find_server(tmp_path)
    assert server.tree == tmp_path / "rabbitmq"
    assert server.script.is_relative_to(server.tree)
