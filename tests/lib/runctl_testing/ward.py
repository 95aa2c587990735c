"""One odd training in a house: started in any way, seen through its diary, ill-treated by its provider."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runctl_shared.errors import RefusedByGuard
from runctl_shared.messages.replies import AttemptView, Done, RunDetail
from runctl_shared.messages.requests import CancelRun
from runctl_testing.aftermath import Line, Witness
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually
from runctl_testing.provider_side import ProviderSide

LIBRARY = Path(__file__).parents[1]
ODD = (sys.executable, "-m", "runctl_testing.odd_train")


class Ward:
    """`folder` is the test's own; the diary and scripts lie there."""

    def __init__(self, house: House, folder: Path) -> None:
        self.house, self.folder = house, folder
        self.witness = Witness(house, folder / "diary")
        self.provider = ProviderSide(house)
        self._enough = folder / "enough"
        self._runs: list[str] = []

    @property
    def env(self) -> dict[str, str]:
        return self.witness.env | {"PYTHONPATH": str(LIBRARY)}

    def start(self, *arguments: str, launcher: Sequence[str] = ODD, **changes: Any) -> str:
        """Submit the odd training, by `launcher`; its run's id. It trains until it is `enough`."""
        command = (*launcher, "--until", str(self._enough), *arguments)
        run = self.house.submit(command=command, workdir=str(self.folder), env=self.env, **changes)
        self._runs.append(run)
        return run

    def close(self) -> None:
        """After a test that failed: end what is left, which the others of the house have no part in."""
        if not self.witness.machines():
            return
        for run in self._runs:
            with contextlib.suppress(RefusedByGuard):  # it has succeeded
                self.house.client.ask(CancelRun(run=run, force=True), Done)
            for machine in self.house.show(run).machines:
                self.provider.end(run, machine.attempt)
            self.house.wait_final(run)

    def until(self, kind: str, value: int = 0, attempt: int = 1) -> Line:
        """Until the diary says `kind`, of `value` at the least."""

        def found() -> Line | None:
            lines = (x for x in self.witness.diary() if (x.attempt, x.kind) == (attempt, kind))
            return next((line for line in lines if line.value >= value), None)

        line = eventually(found, 60, what=f"attempt {attempt} to say {kind} {value}")
        assert line is not None
        return line

    def until_saved(self, run: str, step: int, attempt: int = 1) -> None:
        """Until a checkpoint of at least `step` is told to be safe."""
        self.house.wait_training(run, attempt, saved=step)
        self.witness.look(run)

    def enough(self) -> None:
        """From now on each attempt ends after its `--steps`: none of them has, however slow all else is."""
        self._enough.touch()

    def until_ended(self, run: str, attempt: int = 1) -> RunDetail:
        """The run once that attempt has ended."""
        return self.house.wait(
            run,
            lambda d: [a.state for a in d.attempts if a.attempt == attempt] == ["ended"],
            f"attempt {attempt} to end",
        )

    def end(self, run: str, state: str = "succeeded", *, taken: int = 0) -> RunDetail:
        """The run once it is over, after everything that must hold of it was seen to hold. `taken`: the
        attempt that is to end before it may succeed."""
        if taken:
            self.until_ended(run, taken)
        self.enough()
        self.house.wait_final(run)
        detail = self.witness.check(run)
        assert detail.run.state == state, detail.run
        return detail

    def interrupted(self, run: str) -> tuple[AttemptView, AttemptView]:
        """The two attempts of a run that was interrupted once and then succeeded."""
        first, second = self.end(run, taken=1).attempts
        assert (first.reason, second.reason) == ("interrupted", "succeeded"), (first, second)
        assert first.ended_at is not None
        assert second.started_at is not None
        assert first.ended_at <= second.started_at
        return first, second

    def said(self, run: str, kind: str) -> list[str]:
        """What the story says of that kind."""
        return [item.text for item in self.house.show(run).story if item.kind == kind]

    def script(self, name: str, source: str) -> str:
        path = self.folder / name
        path.write_text(source)
        return str(path)


def path_with(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
