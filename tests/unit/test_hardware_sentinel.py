"""What the real agent sees of a real training: signs of life, use of the processor, GPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runctl_agent.core.phases import Phase
from runctl_agent.hardware.kernel_log import KernelLog
from runctl_agent.hardware.pulse import Pulse, in_words
from runctl_agent.host_metrics import HostMetrics
from runctl_shared.clock import Clock
from runctl_shared.messages.commands import StartTraining
from runctl_testing.agents import Agent
from runctl_testing.eventually import eventually
from runctl_testing.trainings import Bench, new_bench

SILENT = """
import os, time
print("step=1", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("step=2", flush=True)
while True:
    time.sleep(0.02)
"""


class Watch(Clock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return 5e8 + self.at

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with new_bench(tmp_path) as it:
        yield it


def test_a_silent_training_is_told_and_left_alone_and_told_again_when_it_moves(tmp_path: Path) -> None:
    """The loop never looks; or a training that nobody asked to end is ended."""
    agent = Agent(tmp_path, (sys.executable, "-c", SILENT), stall_notice=1.0)
    try:
        agent.trains()
        eventually(lambda: "TrainingStalled" in agent.told(), 60)
        assert "StallEnded" not in agent.told()
        (tmp_path / "go").touch()
        eventually(lambda: "StallEnded" in agent.told(), 60)
        assert agent.state.phase is Phase.TRAINING
        assert "SaveAsked" not in agent.told()
    finally:
        agent.close()


def test_what_cannot_be_understood_of_the_machine_costs_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that runs and is told not to have started, or whose end is never told, because a line of
    /proc is not as it was thought to be."""

    def odd(*_: object) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("runctl_agent.hardware.memory_watch.memory_group", odd)
    monkeypatch.setattr("runctl_agent.hardware.memory_watch.machine_kills", odd)
    monkeypatch.setattr(KernelLog, "start", odd)
    monkeypatch.setattr(KernelLog, "catch_up", odd)
    agent = Agent(tmp_path, (sys.executable, "-c", "print('step=1', flush=True)"))
    try:
        agent.start()
        agent.command(StartTraining())
        agent.until(Phase.ENDED)
        assert agent.state.report is not None
        assert (agent.state.report.reason, agent.state.report.last_step) == ("succeeded", 1)
    finally:
        agent.close()


def test_the_processor_time_of_the_training_is_that_of_all_its_processes(bench: Bench) -> None:
    """A training whose work is done by its workers is taken for idle."""
    work = "x = 0\nfor _ in range(3_000_000): x += 1\n"
    ended = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    trainer = bench.python(f"{ended}\nprint('done', flush=True)\nimport time; time.sleep(600)")
    metrics = HostMetrics(bench.folder)
    bench.waits_for("done")
    sample = metrics.sample(trainer.pid)
    assert sample.trainer_cpu is not None
    assert sample.trainer_cpu > 0.05
    assert metrics.last is sample


def test_states_are_told_in_words(bench: Bench) -> None:
    """A training that was stopped by a signal is told to sleep."""
    trainer = bench.python("import os, signal; print('up', flush=True); os.kill(os.getpid(), signal.SIGSTOP)")
    bench.waits_for("up")
    metrics = HostMetrics(bench.folder)
    eventually(lambda: in_words(metrics.sample(trainer.pid).trainer_states) == "1 stopped")
    assert in_words("SSD") == "2 sleeping, 1 waiting for a disk, a network drive or a driver"
    assert in_words("") == "no process was found"


def test_what_it_writes_is_a_sign_of_life_also_while_it_is_not_complete(tmp_path: Path) -> None:
    """A training that writes a large checkpoint for an hour is taken for stalled."""
    clock = Watch()
    pulse = Pulse(clock, tmp_path)
    assert pulse.moved_at() is None
    pulse.printed()
    clock.at += 50.0
    assert pulse.moved_at() == 1000.0
    part = tmp_path / "deep" / "model.part"
    part.parent.mkdir()
    part.touch()
    for path in (part, part.parent):
        os.utime(path, (clock.now() - 20.0, clock.now() - 20.0))
    assert pulse.moved_at() == 1030.0
    os.utime(part, (clock.now() + 1e6, clock.now() + 1e6))  # a disk of another machine, whose clock is wrong
    assert pulse.moved_at() == 1050.0


def test_the_longest_silence_is_between_two_things_that_were_printed(tmp_path: Path) -> None:
    """The silence that goes on now excuses itself."""
    clock = Watch()
    pulse = Pulse(clock, tmp_path)
    for pause in (0.0, 3.0, 40.0, 2.0):
        clock.at += pause
        pulse.printed()
    clock.at += 500.0
    assert (pulse.longest_silence, pulse.printed_at) == (40.0, 1045.0)


def test_its_work_is_counted_from_when_it_fell_silent(tmp_path: Path) -> None:
    """A training that worked for a day and then hung is taken for busy; or a process that ended for idle."""
    clock = Watch()
    pulse = Pulse(clock, tmp_path)
    assert pulse.cores_since(0.0) is None
    for cpu in range(1000):
        clock.at += 10.0
        pulse.worked(float(cpu))
    silent = clock.at
    for _ in range(50):
        clock.at += 10.0
        pulse.worked(1000.0)
    assert pulse.cores_since(silent + 1.0) == 0.0
    assert pulse.cores_since(0.0) == pytest.approx(0.1, rel=0.2)
    clock.at += 10.0
    pulse.worked(3.0)
    assert pulse.cores_since(silent + 1.0) is None
