"""What the kernel says of memory and GPUs: its log, its control groups, its counters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runctl_agent.hardware.cgroup import Group, machine_kills, memory_group
from runctl_agent.hardware.kernel_log import KernelLog, KillLine, XidLine, pci_address, read_line
from runctl_agent.hardware.memory_watch import MemoryWatch
from runctl_shared.clock import SystemClock
from runctl_testing.cgroups import pid_is_the_kernels
from runctl_testing.eventually import eventually

KILLED = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/box,"
    "task_memcg=/box/run,task=python3 -c a,b,pid=30066,uid=0"
)
MACHINE = (
    "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,"
    "task_memcg=/user.slice,task=python,pid=12,uid=1000"
)


class TestTheLog:
    @pytest.mark.parametrize(
        ("line", "found"),
        [
            ("NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
             XidLine("0000:3b:00", 79)),
            ("NVRM: Xid (0000:03:00): 14, Channel 00000001", XidLine("0000:03:00", 14)),
            ("NVRM: Xid (PCI:000A:C1:00): 48, An uncorrectable double bit error", XidLine("000a:c1:00", 48)),
            (KILLED, KillLine(30066, "python3 -c a,b", "/box/run", limit=True)),
            (MACHINE, KillLine(12, "python", "/user.slice", limit=False)),
            ("NVRM: GPU at PCI:0000:3b:00: GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7", None),
            ("Memory cgroup out of memory: Killed process 30066 (python3) total-vm:71444kB", None),
            ("usb 1-1: new device", None),
        ],
    )  # fmt: skip
    def test_its_lines(self, line: str, found: object) -> None:
        """A form of the driver's or the kernel's line that is not understood; one kill counted twice."""
        assert read_line(line) == found

    def test_one_spelling_of_an_address(self) -> None:
        """The same GPU under two names, so that one error is told twice."""
        for text in ("00000000:3B:00.0", "0000:3b:00", "3B:00.0"):
            assert pci_address(text) == "0000:3b:00"

    def test_who_may_not_read_it_does_without(self, tmp_path: Path) -> None:
        """An agent that fails where the kernel's log is closed."""
        log = KernelLog(lambda line, at: None, tmp_path / "none")
        assert log.start(since=None) is False
        log.catch_up()

    def test_the_real_one_tells_what_is_new_and_nothing_of_before(self) -> None:
        """A kill of last week taken for today's; a line that is only read at the next heartbeat."""

        def write(pid: int) -> None:
            with open("/dev/kmsg", "w") as file:
                file.write(f"{KILLED.replace('30066', str(pid))}\n")

        try:
            write(1)
        except OSError:
            pytest.skip("the kernel's log may not be written to here")
        heard: list[tuple[XidLine | KillLine, float]] = []
        log, clock = KernelLog(lambda line, at: heard.append((line, at))), SystemClock()
        if not log.start(since=None):
            pytest.skip("the kernel's log may not be read here")
        before = clock.monotonic()
        mine = os.getpid()
        write(mine)
        log.catch_up()
        eventually(lambda: [line for line, _ in heard if isinstance(line, KillLine) and line.pid == mine])
        assert not [line for line, _ in heard if isinstance(line, KillLine) and line.pid == 1]
        (at,) = [at for line, at in heard if isinstance(line, KillLine) and line.pid == mine]
        assert abs(at - before) < 60.0 + 0.01 * before  # the kernel's clock, roughly ours

        again: list[XidLine | KillLine] = []
        other = KernelLog(lambda line, at: again.append(line))
        other.start(since=clock.monotonic() + 1e6)
        other.catch_up()
        assert again == []


def proc(folder: Path, groups: str, mounts: str) -> Path:
    for pid in ("7", "self"):
        (folder / pid).mkdir(parents=True)
        (folder / pid / "cgroup").write_text(groups)
        (folder / pid / "mountinfo").write_text(mounts)
    return folder


class TestTheGroup:
    def test_v2(self, tmp_path: Path) -> None:
        """The limit of the service around it is not seen; kills are looked for in the wrong file."""
        mount = tmp_path / "cg"
        inner = mount / "system.slice" / "train.service"
        inner.mkdir(parents=True)
        (inner / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 2\noom_kill 1\noom_group_kill 0\n")
        (inner / "memory.max").write_text("max\n")
        (inner.parent / "memory.max").write_text("1000000\n")
        where = proc(
            tmp_path / "proc",
            "0::/system.slice/train.service\n",
            f"29 23 0:27 / /nameless rw - tmpfs  rw\n30 23 0:28 / {mount} rw - cgroup2 cgroup2 rw\n",
        )
        group = memory_group(7, where)
        assert group is not None
        assert (group.folder, group.kills(), group.limit()) == (inner, 1, 1_000_000)

    def test_v1_in_a_container_without_a_namespace_of_its_own(self, tmp_path: Path) -> None:
        """A container in which /sys/fs/cgroup/memory is the container's own group already."""
        mount = tmp_path / "memory"
        mount.mkdir()
        (mount / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
        (mount / "memory.limit_in_bytes").write_text("9223372036854771712\n")
        where = proc(
            tmp_path / "proc",
            "5:cpu,cpuacct:/docker/ab\n4:memory:/docker/ab\n0::/\n",
            f"32 31 0:29 /docker/ab /elsewhere rw - cgroup cgroup rw,cpu\n"
            f"35 31 0:32 /docker/ab {mount} rw - cgroup cgroup rw,memory\n",
        )
        group = memory_group(7, where)
        assert group is not None
        assert (group.folder, group.kills(), group.limit()) == (mount, 3, None)

    def test_none(self, tmp_path: Path) -> None:
        """A machine without control groups, on which every training fails to start."""
        assert memory_group(7, proc(tmp_path, "0::/\n", "23 1 0:2 / / rw - ext4 /dev/vda rw\n")) is None
        assert memory_group(8, tmp_path) is None

    def test_this_machine_s(self) -> None:
        """What the kernel really writes."""
        group = memory_group("self")
        if group is None:
            pytest.skip("this machine shows no memory control group")
        assert group == memory_group(os.getpid())
        assert group.limit() is None or group.limit() > 0  # type: ignore[operator]  # not None by then
        kills = machine_kills()
        assert kills is None or kills >= 0


class Machine:
    """A machine whose counters a test sets."""

    def __init__(self, folder: Path, counted: bool = True) -> None:
        self.group = folder / "cg" / "run"
        self.group.mkdir(parents=True)
        mounts = f"30 23 0:28 / {folder / 'cg'} rw - cgroup2 cgroup2 rw\n" if counted else ""
        self.proc = proc(folder / "proc", "0::/run\n", mounts)
        (self.proc / "self" / "ns").mkdir()
        (self.group / "memory.max").write_text("64000000\n")
        self.kills, self.machine = 5, 9
        self.write()
        self.watch = MemoryWatch(SystemClock(), self.proc)
        self.watch.begin(7)

    def write(self) -> None:
        (self.group / "memory.events").write_text(f"oom_kill {self.kills}\n")
        (self.proc / "vmstat").write_text(f"nr_free_pages 1\noom_kill {self.machine}\n")

    def traces(self, *printed: str) -> list[tuple[str, str]]:
        self.write()
        return [(trace.memory, trace.text) for trace in self.watch.traces(printed)]


class TestTheWatch:
    def test_kills_from_before_it_began_are_none(self, tmp_path: Path) -> None:
        """A counter that was not zero."""
        assert Machine(tmp_path).traces() == []

    def test_the_counter_of_the_group(self, tmp_path: Path) -> None:
        """The only evidence in a container: the kernel's log is closed there."""
        machine = Machine(tmp_path)
        machine.kills += 1
        ((memory, text),) = machine.traces()
        assert memory == "limit"
        assert text.endswith("for want of memory (its limit is 64.0 MB)")

    def test_a_kill_elsewhere_on_the_machine_is_not_ours_when_our_own_are_counted(
        self, tmp_path: Path
    ) -> None:
        """Another user's browser is killed when the training is."""
        machine = Machine(tmp_path)
        machine.machine += 1
        assert machine.traces() == []

    def test_without_a_group_the_machine_s_counter_is_weak_evidence(self, tmp_path: Path) -> None:
        """A machine without control groups, on which no kill is ever noticed."""
        machine = Machine(tmp_path, counted=False)
        machine.machine += 1
        assert [memory for memory, _ in machine.traces()] == ["somewhere"]

    def test_the_kernel_s_word_names_who_was_killed(self, tmp_path: Path) -> None:
        """Evidence that says less than it could; the same kill counted by the counter as well."""
        machine = Machine(tmp_path)
        machine.kills += 1
        machine.watch.heard(KillLine(31, "python3", "/run", limit=True), 1.0)
        machine.watch.heard(KillLine(32, "chrome", "/user.slice", limit=False), 1.0)
        ((memory, text),) = machine.traces("step=1")
        assert memory == "limit"
        assert text.startswith("the kernel killed python3 (process 31): the memory limit of 64.0 MB of its ")

    def test_a_process_of_the_training_wherever_it_is(self, tmp_path: Path) -> None:
        """A worker in a control group of its own."""
        if not pid_is_the_kernels():
            pytest.skip("process ids are not the kernel's here")
        machine = Machine(tmp_path)
        (machine.proc / "self" / "ns" / "pid").symlink_to("/proc/self/ns/pid")
        machine.watch.beat([7, 44])
        machine.watch.heard(KillLine(44, "python3", "/other", limit=False), 1.0)
        assert [memory for memory, _ in machine.traces()] == ["machine"]

    def test_a_training_that_moves_to_another_group(self, tmp_path: Path) -> None:
        """systemd-run, or a launcher with a group of its own: kills there are not seen, or old ones are."""
        machine = Machine(tmp_path)
        other = tmp_path / "cg" / "other"
        other.mkdir()
        (other / "memory.events").write_text("oom_kill 70\n")
        (machine.proc / "7" / "cgroup").write_text("0::/other\n")
        machine.watch.beat([7])
        assert machine.traces() == []
        (other / "memory.events").write_text("oom_kill 71\n")
        assert [memory for memory, _ in machine.traces()] == ["machine"]

    def test_its_own_words(self, tmp_path: Path) -> None:
        """What the training says last is not looked at."""
        said = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
        assert Machine(tmp_path).traces("step=1", said) == [("gpu", f"the GPU's memory ran out: {said}")]


def test_a_group_whose_folder_is_gone_tells_nothing(tmp_path: Path) -> None:
    """The container's group is removed before its last counter is read."""
    group = Group(tmp_path / "gone", "/gone", "memory.events", "memory.max")
    assert (group.kills(), group.limit()) == (None, None)
