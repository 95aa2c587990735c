"""Real trainings for tests: started, adopted, and looked at from outside the code under test."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from runctl_agent.trainer.adopt import adopt
from runctl_agent.trainer.process import Trainer
from runctl_agent.trainer.start import start
from runctl_shared.clock import SystemClock
from runctl_testing.eventually import eventually

PATIENCE = 60.0
PYTHON = sys.executable


class Bench:
    """A folder with a training in it, and what is known of its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output, self.state = folder / "out.log", folder / "trainer"
        self.marks = {"RUNCTL_RUN": secrets.token_hex(8), "RUNCTL_ATTEMPT": "1"}
        self.env = {**os.environ, "PYTHONUNBUFFERED": "1", **self.marks}
        self.exits: list[tuple[int | None, int | None]] = []
        self.trainers: list[Trainer] = []

    def start(self, argv: Sequence[str], **options: float) -> Trainer:
        trainer = start(
            argv,
            self.env,
            self.folder,
            self.output,
            self.state,
            on_exit=lambda code, number: self.exits.append((code, number)),
            clock=SystemClock(),
            **options,
        )
        self.trainers.append(trainer)
        return trainer

    def python(self, source: str) -> Trainer:
        (self.folder / "train.py").write_text(source)
        return self.start([PYTHON, "train.py"])

    def adopt(self) -> Trainer | None:
        trainer = adopt(
            self.state,
            marks=self.marks,
            on_exit=lambda code, number: self.exits.append((code, number)),
            clock=SystemClock(),
        )
        if trainer is not None:
            self.trainers.append(trainer)
        return trainer

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def waits_for(self, word: str, times: int = 1) -> None:
        eventually(lambda: self.text().count(word) >= times, PATIENCE, what=f"{times} x {word!r}")

    def living(self) -> list[psutil.Process]:
        """Every process of this training that runs, found independently of the code under test."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("RUNCTL_RUN") == self.marks["RUNCTL_RUN"]:
                    found.append(process)
            except psutil.Error:
                continue
        return [process for process in found if runs(process)]


def runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def new_bench(folder: Path) -> Iterator[Bench]:
    """A bench whose trainings are all ended when the test is over."""
    it = Bench(folder)
    yield it
    for trainer in it.trainers:
        trainer.kill()
        if not trainer.join(PATIENCE):
            raise AssertionError(f"training {trainer.pid} never reported its end")
