"""What a local machine does by itself: boot, restart its agent, end, and leave nothing. With real processes."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runctl_controller.providers.local import provider as provider_module
from runctl_controller.providers.local.home import remove_tree
from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.local.tags import FAIL_BOOT, KEEP_DISK
from runctl_controller.providers.local.watch import LONGEST_PAUSE, Watch
from runctl_controller.providers.port import EndCause, MachineState, Refused, Throttled
from runctl_shared.clock import SystemClock
from runctl_testing.eventually import eventually
from runctl_testing.machines import OURS, LocalMachines, alive

NEVER = 1e9


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalMachines]:
    machines = LocalMachines(tmp_path)
    try:
        yield machines
    finally:
        machines.end_all()


def write_secrets(local: LocalMachines, values: dict[str, str], mode: int = 0o600) -> None:
    path = local.root.parent / "secrets" / "run-aaaa.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    path.chmod(mode)


# The watch: pure.


def no() -> bool:
    return False


def watch(boot_by: float | None = NEVER, end_by: float = NEVER) -> Watch:
    return Watch(boot_by=boot_by, end_by=end_by, start_at=0.0)


def test_the_boot_limit_ends_only_what_never_started() -> None:
    assert watch(boot_by=10).verdict(9.9, no) is None
    assert watch(boot_by=10).verdict(10, no) is EndCause.BOOT_FAILED
    started = watch(boot_by=10)
    assert started.verdict(10, lambda: True) is None
    assert started.verdict(11, no) is None
    assert started.next_look() == 0.0


def test_the_hard_end_and_the_interruption_come_in_time() -> None:
    machine = watch(end_by=100)
    machine.agent_began(0)
    machine.taken_at = 50
    assert machine.next_look() == 50
    assert machine.verdict(49.9, no) is None
    assert machine.verdict(50, no) is EndCause.INTERRUPTED
    machine.taken_at = None
    assert machine.next_look() == 100
    assert machine.verdict(100, no) is EndCause.ITSELF


def test_what_we_asked_for_is_not_called_an_interruption() -> None:
    machine = watch()
    machine.taken_at, machine.asked = 1, True
    assert machine.verdict(2, no) is EndCause.ASKED


def test_pauses_between_crashes_grow_and_begin_again() -> None:
    machine, now, pauses = watch(), 0.0, []
    for _ in range(8):
        machine.agent_began(now)
        machine.agent_ended(now, exit_code=1)
        assert machine.start_at is not None
        pauses.append(machine.start_at - now)
        assert not machine.agent_due(machine.start_at - 0.01)
        now = machine.start_at
        assert machine.agent_due(now)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    machine.agent_began(now)
    machine.agent_ended(now + 3600, exit_code=-9)
    assert machine.start_at == now + 3601
    assert machine.verdict(now, no) is None
    machine.agent_ended(now, exit_code=0)
    assert machine.verdict(now, no) is EndCause.ITSELF


# The machine.


def test_the_agent_finds_its_machine_as_promised(local: LocalMachines) -> None:
    write_secrets(local, {"TOKEN": "hush", "OTHER": "not for this run"})
    order = local.order(do=("start", "secrets"), secrets=("TOKEN",))
    local.provider.launch(order)
    assert json.loads(local.said("secrets")) == {"TOKEN": "hush"}
    disk = local.folder(order) / "disk"
    assert stat.S_IMODE(disk.stat().st_mode) == 0o700
    for private in (disk / "boot.json", disk / "secrets.json", local.folder(order) / "order.json"):
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert (disk / "boot.json").read_bytes() == order.boot
    assert {path.name for path in disk.iterdir() if path.is_dir()} >= {"agent", "checkpoints", "tmp"}
    environment = json.loads(local.said(f"began-{local.begun()[0]}"))
    assert environment["RUNCTL_MACHINE"] == order.machine
    assert environment["TMPDIR"] == str(disk / "tmp")
    assert environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"].startswith("http://127.0.0.1:")
    for path in local.folder(order).rglob("*"):
        if path.is_file() and path.name != "secrets.json":
            assert b"hush" not in path.read_bytes(), path
    assert "hush" not in " ".join(local.host(order).cmdline() + list(environment.values()))


@pytest.mark.parametrize(
    ("mode", "name", "says"), [(0o644, "TOKEN", "Others may read"), (0o600, "KEY", "no secret named KEY")]
)
def test_secrets_that_are_not_safe_or_not_there_are_refused(
    local: LocalMachines, mode: int, name: str, says: str
) -> None:
    write_secrets(local, {"TOKEN": "hush"}, mode)
    order = local.order(secrets=(name,))
    with pytest.raises(Refused, match=says) as refusal:
        local.provider.launch(order)
    assert "hush" not in str(refusal.value)
    assert local.sight(order).state is MachineState.ABSENT


def test_nothing_outlives_a_machine(local: LocalMachines) -> None:
    names = ("marked", "stopped", "bare", "child")
    order = local.order(do=("start", "bare-daemon", "bare-child", "daemons"))
    local.provider.launch(order)
    pids = [int(local.said(f"trainer-{name}")) for name in names] + local.begun()
    assert all(alive(pid) for pid in pids)
    local.provider.terminate(order)
    local.until(order, MachineState.TERMINATED)
    # Not eventually: "terminated" is said only when nothing is left.
    assert [pid for pid in pids if alive(pid)] == []
    assert [path.name for path in local.folder(order).iterdir()] == ["state.json"]
    assert not any((local.root / "live").iterdir())


def test_a_disk_that_was_made_unreadable_goes_too(local: LocalMachines) -> None:
    order = local.order(do=("start", "lock-disk"))
    local.provider.launch(order)
    local.said("did-lock-disk")
    local.provider.terminate(order)
    local.until(order, MachineState.TERMINATED)
    assert not (local.folder(order) / "disk").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user to be one whom permissions bind")
def test_permissions_do_not_keep_a_disk(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    deep = tmp_path / "disk" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chown(tmp_path, 65534, 65534)
            for folder in (deep, *deep.parents[:3]):
                os.chown(folder, 65534, 65534)
                folder.chmod(0)
            for parent in tmp_path.parents:
                if parent.stat().st_uid == 0 and parent.name.startswith("pytest"):
                    parent.chmod(0o755)
            os.setuid(65534)
            remove_tree(tmp_path / "disk")
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not (tmp_path / "disk").exists()


def test_when_the_host_is_killed_the_machine_is_dead(local: LocalMachines) -> None:
    order = local.order(do=("start", "bare-child", "daemons"))
    local.provider.launch(order)
    pids = [int(local.said(f"trainer-{name}")) for name in ("marked", "stopped", "child")] + local.begun()
    local.host(order).kill()
    over = local.until(order, MachineState.TERMINATED)
    assert over.cause is EndCause.FAILED
    assert [pid for pid in pids if alive(pid)] == []
    assert not (local.folder(order) / "disk").exists()
    assert list(local.provider.list_ours(OURS)) == []
    assert local.provider.launch(order) == over


def test_a_host_that_is_killed_while_it_is_stopped_is_noticed(local: LocalMachines) -> None:
    order = local.order()
    local.provider.launch(order)
    host = local.host(order)
    host.suspend()
    local.provider.terminate(order)
    assert local.sight(order).state is MachineState.RUNNING  # asked, but not heard
    host.kill()
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.ASKED
    assert not any(alive(pid) for pid in local.begun())


def test_listing_buries_the_dead_as_well(local: LocalMachines) -> None:
    order = local.order()
    local.provider.launch(order)
    local.said("did-start")
    local.host(order).kill()
    eventually(lambda: not local.provider.list_ours(OURS))
    assert not any(alive(pid) for pid in local.begun())


def test_the_computer_going_down_ends_the_machine(local: LocalMachines) -> None:
    order = local.order()
    local.provider.launch(order)
    host = local.host(order)
    host.send_signal(signal.SIGHUP)
    host.send_signal(signal.SIGINT)
    local.said("did-start")
    assert local.sight(order).state is MachineState.RUNNING
    host.terminate()
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.FAILED


def test_an_interruption_is_announced_to_the_machine(local: LocalMachines) -> None:
    order = local.order(do=("start", "notice", "rebalance"))
    local.provider.launch(order)
    local.said("did-start")
    local.provider.interrupt(order, 3600.0)
    notice = json.loads(local.said("notice"))
    assert notice["action"] == "terminate"
    local.provider.recommend_rebalance(order)
    assert json.loads(local.said("rebalance"))["noticeTime"] < notice["time"]
    assert alive(local.begun()[0])
    local.provider.interrupt(order, 0.0)
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.INTERRUPTED
    assert not any(alive(pid) for pid in local.begun())


def test_an_agent_that_crashes_is_started_again(local: LocalMachines) -> None:
    order = local.order(do=("daemons", "crash-once", "start"))
    local.provider.launch(order)
    local.said("did-start")
    assert len(local.begun()) == 2
    assert local.sight(order).state is MachineState.RUNNING
    # The training goes on meanwhile: the new agent adopts it.
    assert alive(int(local.said("trainer-marked")))


def test_an_agent_that_leaves_ends_the_machine_with_its_training(local: LocalMachines) -> None:
    order = local.order(do=("start", "daemons", "leave"))
    local.provider.launch(order)
    over = local.until(order, MachineState.TERMINATED)
    assert over.cause is EndCause.ITSELF
    pids = [int(path.read_text()) for path in local.out.glob("trainer-*")]
    assert not any(alive(pid) for pid in pids)


def test_an_agent_that_never_starts_is_a_failed_boot(local: LocalMachines) -> None:
    order = local.order(do=("crash",), boot_limit=0.5)
    local.provider.launch(order)
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.BOOT_FAILED
    assert "fell over" in local.provider.console(order)
    assert not any(alive(pid) for pid in local.begun())


def test_a_boot_fails_on_request(local: LocalMachines) -> None:
    order = local.order(boot_limit=0.2, tags={FAIL_BOOT: "1"})
    local.provider.launch(order)
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.BOOT_FAILED
    assert local.begun() == []


def test_an_agent_that_is_not_there_fails_the_boot_at_once(local: LocalMachines) -> None:
    order = local.order()
    local.another(agent_command=("/nonexistent/agent",)).launch(order)
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.BOOT_FAILED
    assert "/nonexistent/agent" in local.provider.console(order)


def test_a_machine_that_has_started_is_not_bound_by_the_boot_limit(local: LocalMachines) -> None:
    order = local.order(do=("start",), boot_limit=2.0, hard_end=3.0)
    local.another(save_margin=0.0).launch(order)
    # Ended by its hard end, so the boot limit has come and gone.
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.ITSELF


def test_a_disk_can_be_kept_to_look_at(local: LocalMachines) -> None:
    order = local.order(tags={KEEP_DISK: "1"})
    local.provider.launch(order)
    local.said("did-start")
    local.provider.terminate(order)
    local.until(order, MachineState.TERMINATED)
    assert (local.folder(order) / "disk" / "agent" / "started").exists()


# The provider.


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
        patch.setattr(provider_module.subprocess, "Popen", fail)
        with pytest.raises(kind, match=says):
            local.provider.launch(order)
    assert local.sight(order).state is MachineState.ABSENT
    assert [path.name for path in local.root.rglob("*") if path.is_file()] == ["lock"]
    local.provider.launch(order)
    local.until(order, MachineState.RUNNING)
