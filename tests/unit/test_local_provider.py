"""How the local provider launches machines, and refuses to. With real processes."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runctl_controller.providers.local.home import Record
from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.port import EndCause, MachineState, Refused, Throttled
from runctl_shared.clock import SystemClock
from runctl_testing.machines import OURS, LocalMachines


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalMachines]:
    machines = LocalMachines(tmp_path)
    try:
        yield machines
    finally:
        machines.end_all()


def test_two_processes_launch_one_machine(local: LocalMachines, tmp_path: Path) -> None:
    order = local.order()
    file = tmp_path / "order"
    file.write_bytes(msgspec.json.encode(order))
    script = (
        "import sys, pathlib, msgspec; from runctl_shared.clock import SystemClock;"
        "from runctl_controller.providers.port import LaunchOrder;"
        "from runctl_controller.providers.local.provider import LocalProvider;"
        "order = msgspec.json.decode(pathlib.Path(sys.argv[2]).read_bytes(), type=LaunchOrder);"
        "p = LocalProvider(pathlib.Path(sys.argv[1]), SystemClock(), agent_command=sys.argv[3:]);"
        "print('ready', flush=True); sys.stdin.readline(); print(p.launch(order).provider_id)"
    )
    agent = [sys.executable, str(tmp_path / "agent.py")]
    command = [sys.executable, "-c", script, str(local.root), str(file), *agent]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for child in both:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in both:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.communicate()[0] for child in both] == ["agent-aaaa-1\n"] * 2
    # Launched by processes that are gone: the machine does not mind.
    local.said("did-start")
    assert len(local.begun()) == 1


def test_a_launcher_that_dies_half_way_leaves_no_machine_that_lives(local: LocalMachines) -> None:
    order = local.order()
    local.provider.launch(order)
    local.said("did-start")
    folder = local.folder(order)
    plan = (folder / "order.json").read_bytes()
    local.provider.terminate(order)
    local.until(order, MachineState.TERMINATED)
    # As it would lie there: recorded, its lock free, its host never begun.
    record = json.loads((folder / "state.json").read_bytes())
    (folder / "state.json").write_text(json.dumps({**record, "state": "pending", "cause": None}))
    (folder / "order.json").write_bytes(plan)
    (folder / "host.lock").touch()
    (local.root / "live" / order.machine).touch()
    assert local.provider.launch(order).cause is EndCause.FAILED
    # Or not even recorded: then it is launched as if nothing had been.
    second = local.order("agent-aaaa-2")
    local.folder(second).mkdir()
    (local.folder(second) / "order.json").touch()
    (local.root / "live" / second.machine).touch()
    assert local.sight(second).state is MachineState.ABSENT
    assert list(local.provider.list_ours(OURS)) == []
    local.provider.launch(second)
    local.until(second, MachineState.RUNNING)


def test_one_machine_id_is_not_given_twice(local: LocalMachines) -> None:
    local.provider.launch(local.order())
    with pytest.raises(Refused, match="agent-aaaa-1"):
        local.provider.launch(local.order(token="another"))


@pytest.mark.parametrize("machine", ["../../elsewhere", "a/b", "", ".", "agent-aaaa-1/../x"])
def test_a_machine_id_never_leaves_the_folder(local: LocalMachines, machine: str) -> None:
    order = local.order(machine, token="t")
    with pytest.raises(Refused):
        local.provider.launch(order)
    assert local.sight(order).state is MachineState.ABSENT
    local.provider.terminate(order)
    assert not local.root.exists()


def test_what_lies_outside_is_not_taken_for_a_machine(local: LocalMachines) -> None:
    (local.root / "machines").mkdir(parents=True)
    outside = local.root / "elsewhere"
    outside.mkdir()
    order = local.order("../elsewhere", token="t")
    record = Record(token="t", machine=order.machine, state=MachineState.RUNNING, launched_at=0.0)
    (outside / "state.json").write_bytes(msgspec.json.encode(record))
    assert local.sight(order).state is MachineState.ABSENT
    local.provider.terminate(order)
    assert [path.name for path in outside.iterdir()] == ["state.json"]


def test_a_root_that_cannot_be_written_is_refused_in_one_sentence(
    local: LocalMachines, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    provider = LocalProvider(tmp_path / "file" / "local", SystemClock())
    with pytest.raises(Refused, match=r"cannot be kept in .*: Not a directory\."):
        provider.launch(local.order())


@pytest.mark.parametrize(
    ("number", "kind", "says"),
    [(errno.ENOSPC, Refused, "no room"), (errno.EAGAIN, Throttled, "cannot be kept")],
)
def test_a_launch_that_fails_leaves_nothing(
    local: LocalMachines, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception], says: str
) -> None:
    order = local.order()

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", fail)
        with pytest.raises(kind, match=says):
            local.provider.launch(order)
    assert local.sight(order).state is MachineState.ABSENT
    assert [path.name for path in local.root.rglob("*") if path.is_file()] == ["lock"]
    local.provider.launch(order)
    local.until(order, MachineState.RUNNING)
