"""What a local machine does by itself: boot, restart its agent, end, leave nothing. With real processes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_controller.providers.local import host as host_module
from runctl_controller.providers.local.home import Home, Plan, Record, remove_tree
from runctl_controller.providers.local.imds import Metadata, MetadataServer
from runctl_controller.providers.local.scratch import remove_short_name, short_name
from runctl_controller.providers.local.tags import FAIL_BOOT, KEEP_DISK
from runctl_controller.providers.port import EndCause, MachineState, Refused
from runctl_shared.clock import Clock, SystemClock
from runctl_testing.eventually import eventually
from runctl_testing.machines import OURS, LocalMachines, alive

_NOBODY = 65534


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
    assert os.path.samefile(environment["TMPDIR"], disk / "tmp")
    assert environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"].startswith("http://127.0.0.1:")
    for path in local.folder(order).rglob("*"):
        if path.is_file() and path.name != "secrets.json":
            assert b"hush" not in path.read_bytes(), path
    assert "hush" not in " ".join(local.host(order).cmdline() + list(environment.values()))


def test_temporary_files_have_a_name_short_enough_for_sockets(local: LocalMachines) -> None:
    """Without it no training with DataLoader workers runs: they bind sockets in TMPDIR, and hang."""
    order = local.order(do=("start",))
    local.provider.launch(order)
    local.said("did-start")
    folder = Path(json.loads(local.said(f"began-{local.begun()[0]}"))["TMPDIR"])
    longest = folder / "pymp-abcdefgh" / "listener-abcdefgh"
    assert len(os.fsencode(longest)) < 107
    assert os.path.samefile(folder, local.folder(order) / "disk" / "tmp")  # where there is room
    local.end_all()
    assert not folder.is_symlink()


def test_only_the_machines_own_link_is_removed(tmp_path: Path) -> None:
    """A note that was tampered with, or a name that is somebody else's by now."""
    long, note = tmp_path / ("x" * 60), tmp_path / "note"
    long.mkdir()
    link = short_name(long, note)
    assert (link.is_symlink(), link.readlink()) == (True, long)
    link.unlink()
    link.symlink_to("/")
    remove_short_name(note)
    assert link.is_symlink()
    link.unlink()
    remove_short_name(note)  # nothing to do is no error


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
    eventually(lambda: [path.name for path in local.folder(order).iterdir()] == ["state.json"])
    eventually(lambda: not any((local.root / "live").iterdir()))


def test_a_disk_that_was_made_unreadable_goes_too(local: LocalMachines) -> None:
    order = local.order(do=("start", "lock-disk"))
    local.provider.launch(order)
    local.said("did-lock-disk")
    local.provider.terminate(order)
    local.until(order, MachineState.TERMINATED)
    assert not (local.folder(order) / "disk").exists()


def test_permissions_do_not_keep_a_disk() -> None:
    # Not in tmp_path: nobody but its owner gets there.
    with tempfile.TemporaryDirectory() as name:
        deep = Path(name) / "disk" / "a" / "b" / "c"
        deep.mkdir(parents=True)
        for folder in (deep, *deep.parents[:4]):
            if os.geteuid() == 0:
                os.chown(folder, _NOBODY, _NOBODY)
            folder.chmod(0o700 if folder == Path(name) else 0)
        pid = os.fork()
        if pid == 0:  # root is bound by no permissions
            with contextlib.suppress(BaseException):
                if os.geteuid() == 0:
                    os.setuid(_NOBODY)
                remove_tree(Path(name) / "disk")
            os._exit(0)
        os.waitpid(pid, 0)
        assert list(Path(name).iterdir()) == []


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


def test_a_machine_that_ends_while_one_looks_is_not_called_failed(
    local: LocalMachines, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = local.order(do=("start", "leave-when-told"))
    local.provider.launch(order)
    local.said("did-start")
    host, state, look = local.host(order), local.folder(order) / "state.json", Home.host_lock

    def look_too_late(home: Home) -> contextlib.AbstractContextManager[bool]:
        (local.out / "leave").touch()
        eventually(lambda: b"terminated" in state.read_bytes() and not host.is_running())
        return look(home)

    with monkeypatch.context() as patch:
        patch.setattr(Home, "host_lock", look_too_late)
        over = local.sight(order)
    assert (over.state, over.cause) == (MachineState.TERMINATED, EndCause.ITSELF)


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
    local.provider.interrupt(order, 0.0, "rebalance")
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
    order = local.order(boot_limit=2.0, hard_end=1.5)
    # An agent that starts quickly on any machine; its arguments are --machine DISK.
    quick = ("/bin/sh", "-c", 'touch "$1/agent/started"; exec sleep 1000')
    local.another(save_margin=1.0, agent_command=quick).launch(order)
    # Ended by its hard end, so the boot limit has come and gone.
    assert local.until(order, MachineState.TERMINATED).cause is EndCause.ITSELF


def test_a_port_that_cannot_be_had_is_asked_for_again(
    local: LocalMachines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tries = MetadataServer, []

    def scarce(metadata: Metadata, clock: Clock) -> MetadataServer:
        tries.append(metadata.instance_id)
        if len(tries) < 3:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        return real(metadata, clock)

    monkeypatch.setattr(host_module, "MetadataServer", scarce)
    monkeypatch.setattr(host_module, "_PORT_PAUSE", 0.0)
    order = local.order()
    plan = Plan(order=order, agent_command=(), save_margin=0.0, secrets_file="")
    record = Record(token=order.token, machine=order.machine, state=MachineState.PENDING, launched_at=0.0)
    host_module.Host(Home(tmp_path / "machine"), plan, record, SystemClock())._serve_metadata().stop()
    assert tries == [order.machine] * 3


def test_a_disk_can_be_kept_to_look_at(local: LocalMachines) -> None:
    order = local.order(tags={KEEP_DISK: "1"})
    local.provider.launch(order)
    local.said("did-start")
    local.provider.terminate(order)
    local.until(order, MachineState.TERMINATED)
    assert (local.folder(order) / "disk" / "agent" / "started").exists()
