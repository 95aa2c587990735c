"""Committing what the training saves: the newest complete checkpoint, one at a time, tried until it works."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl_agent.core import inputs
from runctl_shared.checkpoints.manifest import manifest_name
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_testing.sim.trainer import Saved

if TYPE_CHECKING:
    from runctl_testing.sim.agent import SimAgent

STORE_WAIT = 5.0


class Uploads:
    """Of one process of the agent. What is committed already lies on the machine's disk (`committed`)."""

    def __init__(self, agent: SimAgent) -> None:
        self.agent, self.machine, self.world = agent, agent.machine, agent.world
        self._busy = self._flushing = False

    def retell(self) -> None:
        """After a restart: the process may have died between a commit and the core's hearing of it."""
        if self.machine.committed:
            last, number = self.machine.committed[-1], len(self.machine.committed)
            if (self.agent.engine.state.saved_at or -1.0) < self._written(last):
                self.agent.give(self._stored(last, self._manifest(last, number)))

    def flush(self) -> None:
        """The writer is gone: say Flushed once nothing is left to commit."""
        self._flushing = True
        self.agent.later(0.3, self.scan)

    def scan(self) -> None:
        if self._busy or not self.agent.alive:
            return
        newest = self.machine.committed[-1].at if self.machine.committed else -1.0
        fresh = [saved for saved in self.machine.saves if saved.at > newest]
        if fresh:
            self._busy = True
            self.agent.later(self.world.rng.uniform(0.3, 6.0), lambda: self._upload(fresh[-1]))
        elif self._flushing:
            self._flushing = False
            self.agent.give(inputs.Flushed(at=self.agent.now))

    def _upload(self, saved: Saved) -> None:
        name = self._manifest(saved, len(self.machine.committed) + 1)
        try:
            self.world.vault.put(f"{self.machine.run}/{name}", b"{}", if_absent=True)
        except ObjectStoreError:
            self.agent.later(STORE_WAIT, lambda: self._upload(saved))
            return
        self.machine.committed.append(saved)
        self._busy = False
        self.world.line.note(self.agent.name, f"commits {name}")
        if self.agent.give(self._stored(saved, name)):
            self.scan()

    def _written(self, saved: Saved) -> float:
        return saved.at - self.machine.launched_at + 50.0

    def _manifest(self, saved: Saved, number: int) -> str:
        attempt = self.machine.attempt
        return manifest_name(attempt, number, saved.step, f"ck-a{attempt}s{number}")

    def _stored(self, saved: Saved, name: str) -> inputs.Stored:
        return inputs.Stored(
            at=self.agent.now,
            manifest=name,
            step=saved.step,
            epoch=None,
            size=1,
            files=1,
            format="sim",
            written_at=self._written(saved),
            wall=saved.at,
            upload_seconds=1.0,
        )
