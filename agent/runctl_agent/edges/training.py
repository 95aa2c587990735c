"""The training's process: starting it with the right environment, adopting it, and how it ended."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from runctl_agent.core import inputs
from runctl_agent.edges.place import Place
from runctl_agent.trainer.adopt import adopt
from runctl_agent.trainer.process import Trainer
from runctl_agent.trainer.record import read_record
from runctl_agent.trainer.start import TrainerCannotStart, start
from runctl_shared.clock import Clock
from runctl_shared.spec import Boot, command_line

_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[^\x20-\x7e\xa0-\uffff]")
_INHERITED = re.compile(
    # What a program needs to find its way about on this machine…
    "PATH|HOME|USER|LOGNAME|SHELL|TERM|TMPDIR|TZ|LANG|LC_.*|LD_LIBRARY_PATH|(CUDA|NVIDIA)_.*"
    # …and what every process of the machine is found by, when it is to leave nothing behind.
    "|RUNCTL_MACHINE|RUNCTL_MACHINE_DIR|TEST_SESSION_OF_RUNCTL"
)
"""Variables that the training has from the agent. Of the rest, which may hold keys of whoever started the
machine, it gets nothing: what it needs is in the run's own environment and secrets."""

_LAST = 64 * 1024
"""Bytes of output that are looked at for why the training ended."""


class Training:
    """At most one training. `exited(code, signal name)` is called from another thread, once."""

    def __init__(
        self,
        place: Place,
        boot: Boot,
        clock: Clock,
        exited: Callable[[int | None, str | None], None],
    ) -> None:
        self._place, self._boot, self._clock = place, boot, clock
        self._exited = exited
        self._trainer: Trainer | None = None

    @property
    def marks(self) -> dict[str, str]:
        return {"RUNCTL_RUN": self._boot.spec.run, "RUNCTL_ATTEMPT": str(self._boot.attempt)}

    @property
    def pid(self) -> int | None:
        return None if self._trainer is None or not self._trainer.is_running() else self._trainer.pid

    def start(self, resume_path: str | None) -> int:
        """Start the command; its pid. Raises TrainerCannotStart, StoreUnusable (the secrets)."""
        spec = self._boot.spec
        folder = str(self._place.checkpoints)
        self._trainer = start(
            command_line(spec, folder, resume_path),
            self._environment(folder, resume_path),
            Path(spec.workdir),
            self._place.output,
            self._place.trainer,
            on_exit=self._on_exit,
            clock=self._clock,
        )
        return self._trainer.pid

    def _environment(self, folder: str, resume_path: str | None) -> dict[str, str]:
        spec = self._boot.spec
        secrets = self._place.read_secrets()
        missing = [name for name in spec.secrets if name not in secrets]
        if missing:
            raise TrainerCannotStart(
                f"The secret {missing[0]} did not reach the machine.",
                f"Set {missing[0]} in your environment and start the run again.",
                125,
            )
        env = {name: value for name, value in os.environ.items() if _INHERITED.fullmatch(name)}
        # Else Python keeps its output to itself for 8 KiB, and steps are seen late.
        env.setdefault("PYTHONUNBUFFERED", "1")
        env |= spec.env | {name: secrets[name] for name in spec.secrets}
        env |= self.marks | {"RUNCTL_CHECKPOINT_DIR": folder}
        if resume_path is not None:
            env["RUNCTL_RESUME_FROM"] = resume_path
        return env

    def find(self, at: float, hello: inputs.Booted) -> inputs.Booted:
        """After a restart of the agent: what became of the training (see inputs.Booted)."""
        record = read_record(self._place.trainer)
        found = adopt(self._place.trainer, marks=self.marks, on_exit=self._on_exit, clock=self._clock)
        if found is None:
            return hello
        self._trainer = found
        pid = record.pid if record is not None else found.pid
        # One that has ended meanwhile says so through `exited`, like every other.
        return inputs.Booted(at=at, hello=hello.hello, again=True, trainer="alive", pid=pid)

    def ask_to_save(self, name: str) -> tuple[int, ...]:
        return self._trainer.ask_to_save(name).pids if self._trainer is not None else ()

    def kill(self) -> None:
        if self._trainer is not None:
            self._trainer.kill()

    def _on_exit(self, code: int | None, number: int | None) -> None:
        self._exited(code, None if number is None else _signal_name(number))

    def last_lines(self) -> list[str]:
        """The last lines that the training printed, without what only a terminal understands."""
        try:
            with self._place.output.open("rb") as file:
                file.seek(max(0, self._place.output.stat().st_size - _LAST))
                lines = file.read(_LAST).decode("utf-8", "replace").replace("\r", "\n").splitlines()
        except OSError:
            return []
        return [text for line in lines if (text := _UNPRINTABLE.sub("", line).strip())]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
