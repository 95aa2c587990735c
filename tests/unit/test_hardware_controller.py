"""What the controller makes of broken GPUs, stalls and want of memory."""

from __future__ import annotations

import re

import pytest

from runctl_controller.cli.show import print_run
from runctl_controller.core.effects import Tell
from runctl_controller.core.tables import RunState
from runctl_controller.service.views import run_detail
from runctl_controller.store.port import Beat
from runctl_shared.messages import events, requests
from runctl_testing.sim.decisions import STARTED, Controller, committed, ended, wanted


def restored(c: Controller, attempt: int, step: int) -> None:
    """That attempt trains, from `step` on."""
    c.ready(attempt)
    checkpoint = events.CheckpointRestored(manifest="m", step=step, size=1, seconds=0.1)
    c.hear(attempt, checkpoint, events.TrainingStarted(pid=1, resumed_from="m", restored_step=step))


def told(c: Controller, kind: str) -> list[str]:
    assert c.last is not None
    return [tell.text for tell in wanted(c.last, Tell) if tell.kind == kind]


@pytest.mark.parametrize("reason", ["hardware_fault", "stalled"])
def test_neither_uses_up_what_the_user_granted_for_errors(reason: str) -> None:
    """A broken machine that makes a run fail which may not restart."""
    c = Controller(max_restarts=0)
    c.train()
    c.hear(1, ended(reason))
    assert c.state() is not RunState.FAILED
    assert (c.record.run.restarts, len(c.record.attempts)) == (0, 2)


def test_want_of_memory_does() -> None:
    """The same training on the same machine, out of memory for ever, at the user's expense."""
    c = Controller(max_restarts=0)
    c.train()
    c.hear(1, ended("out_of_memory", detail="the GPU's memory ran out; use a smaller batch"))
    assert (c.state(), c.record.run.why) == (
        RunState.FAILED,
        "the GPU's memory ran out; use a smaller batch",
    )


def test_a_stall_that_comes_back_at_the_same_step_needs_a_person() -> None:
    """It saves when it is asked to end, so that each attempt looks as if it had got further."""
    c = Controller()
    c.train()
    c.hear(1, committed(25), ended("stalled", saved_step=25))
    restored(c, 2, 25)
    c.hear(2, committed(25), ended("stalled", saved_step=25))
    assert c.state() is not RunState.STUCK
    restored(c, 3, 25)
    c.hear(3, committed(25), ended("stalled", saved_step=25))
    assert c.state() is RunState.STUCK
    assert c.record.run.why.startswith("the training made no progress, 2 times in a row")


def test_one_that_gets_further_each_time_goes_on() -> None:
    """A training that hangs once a day is given up after two days."""
    c = Controller()
    c.train()
    c.hear(1, committed(25), ended("stalled", saved_step=25))
    for attempt in range(2, 6):
        restored(c, attempt, 25 * (attempt - 1))
        c.hear(attempt, committed(25 * attempt), ended("stalled", saved_step=25 * attempt))
    assert c.state() is RunState.RECOVERING or c.state() is RunState.PROVISIONING


def test_a_resume_gives_it_its_chances_again() -> None:
    """A run that its user has mended stays stuck at the first stall."""
    c = Controller()
    c.train()
    c.hear(1, ended("stalled"))
    c.train(2)
    c.hear(2, ended("stalled"))
    assert c.state() is RunState.STUCK
    c.request(requests.ResumeRun(run="run-test"))
    c.train(3)
    c.hear(3, ended("stalled"))
    assert c.state() is not RunState.STUCK


def test_the_story_says_what_was_looked_at() -> None:
    """A stall is told, and nothing that helps to find out why."""
    c = Controller()
    c.train()
    body = events.TrainingStalled(
        seconds=1800.0, last_step=7, cpu=0.01, gpu_percent=100.0, processes="2 sleeping, 1 stopped"
    )
    c.hear(1, body)
    assert told(c, "stalled") == [
        "no step, output or checkpoint for 30m 00s (after step 7; 0.01 cores in use, the GPU at 100 %, "
        "processes: 2 sleeping, 1 stopped); it is left alone"
    ]
    c.hear(1, events.StallEnded(seconds=2000.0))
    assert told(c, "moves") == ["the training moves again, after 33m 20s"]
    c.hear(1, events.GpuFaultSeen(device="0000:3b:00", code=31, blame="application", meaning="a page fault"))
    assert told(c, "gpu_fault") == ["GPU 0000:3b:00: Xid 31, a page fault (an error of the program)"]


def test_show_has_the_gpus_and_what_stands_still(capsys: pytest.CaptureFixture[str]) -> None:
    """Figures that are measured and shown to nobody; a name of a GPU that takes over the terminal."""
    c = Controller()
    c.ready(1)
    c.hear(1, STARTED)
    gpu = events.Gpu(
        index=0, name="H100\x1b]0;x\x07", busy_percent=97.0, memory_used=70 * 10**9, memory_total=80 * 10**9,
        celsius=61.0, watts=650.4, slowed_by="heat", ecc_errors=2,
    )  # fmt: skip
    beat = Beat(
        agent=c.agent(1), at=c.at,
        body=events.Heartbeat(phase="training", gpus=(gpu,), stalled_seconds=2000.0),
    )  # fmt: skip
    print_run(run_detail(c.record, beat, (), c.at), c.at)
    out = capsys.readouterr().out
    assert "training (no step, output or checkpoint for 33m 20s)" in out
    line = next(line for line in out.splitlines() if line.startswith("gpu "))
    assert re.fullmatch(
        r"gpu +0: H100.*, busy 97 %, 70\.0 GB of 80\.0 GB, 61 °C, 650 W, slowed by heat, 2 uncorrectable .*",
        line,
    )
    assert "\x1b" not in out
