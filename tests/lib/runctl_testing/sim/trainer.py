"""A training, a process on a machine: makes steps and checkpoints; what becomes of it outlives the agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from runctl_testing.sim.scenario import ALWAYS

if TYPE_CHECKING:
    from runctl_testing.sim.cloud import SimMachine

FIRST_STEP_AFTER = 2.0
HANGS_AT = 40
"""Step that a training which always hangs never gets beyond."""


class Saved(msgspec.Struct, frozen=True):
    """A complete checkpoint on the machine's disk; `at` is simulated time."""

    step: int
    at: float


class SimTrainer:
    """`start_step`: the step that it goes on from. `exit`: code and signal, once it has ended. `hung_at`:
    since when it makes no steps; `standing`: how long it made none before. `broken`: its GPU is."""

    def __init__(self, machine: SimMachine, resume_step: int | None) -> None:
        self.machine, self.plan, self.world = machine, machine.plan, machine.world
        self.line = self.world.line
        self.start_step = (resume_step or 0) if self.plan.resumes else 0
        self.started_at = self.line.now
        self.alive = True
        self.saving = False
        self.asked_at: float | None = None
        self.last: int | None = None
        self.exit: tuple[int | None, str | None] | None = None
        self.hung_at: float | None = None
        self.standing = 0.0
        self.broken = False
        self.world.facts.training_began(self)
        steps = self.plan.length - self.start_step
        self.line.after(FIRST_STEP_AFTER + max(0, steps), self._finish)
        self.line.after(FIRST_STEP_AFTER, self._progress)
        self._next_save()
        if self.world.facts.own_errors(self.plan.spec.run) < self.plan.crashes:
            self.line.after(self.world.rng.uniform(1.0, 60.0), self._fail)
        if machine.attempt <= self.plan.hangs:
            self.line.after(self._hangs_after(), self._hang)

    def _hangs_after(self) -> float:
        if self.plan.hangs != ALWAYS:
            return self.world.rng.uniform(1.0, 90.0)
        left = HANGS_AT - self.start_step
        return FIRST_STEP_AFTER + left if left > 0 else FIRST_STEP_AFTER / 2

    @property
    def step(self) -> int | None:
        """The step last reported; None before the first."""
        made = int(self._worked - FIRST_STEP_AFTER)
        if made < 0 or self.start_step >= self.plan.length:
            return None
        return min(self.plan.length, self.start_step + max(1, made))

    @property
    def _worked(self) -> float:
        """Seconds in which it did not hang."""
        now = self.line.now if self.hung_at is None else self.hung_at
        return now - self.started_at - self.standing

    @property
    def moved_at(self) -> float | None:
        """When it last made a step, as its output shows; None: not yet."""
        if self.step is None:
            return None
        return self.line.now if self.hung_at is None else self.hung_at

    def stood(self, now: float) -> bool:
        """Whether it has shown nothing for as long as --stall-after says, or not yet made a step."""
        hung = self.standing + (0.0 if self.hung_at is None else now - self.hung_at)
        return self.step is None or hung >= (self.plan.spec.stall_after or 0.0) - 1.0

    def _hang(self) -> None:
        if self.alive and self.hung_at is None:
            self.hung_at = self.line.now
            self.line.note(f"trainer {self.machine.attempt}", f"hangs after step {self.step}")
            if self.plan.hang_seconds is not None:
                self.line.after(self.plan.hang_seconds, self._go_on)

    def _go_on(self) -> None:
        if self.alive and self.hung_at is not None and not self.broken:
            self.standing += self.line.now - self.hung_at
            self.hung_at = None
            self.line.note(f"trainer {self.machine.attempt}", "goes on")
            self._finish()

    def lose_gpu(self, dies: bool) -> None:
        """Its GPU has fallen off the bus: its next call fails, or never returns."""
        if dies:
            self._end(1, None)
        else:
            self._hang()

    @property
    def first_step(self) -> int:
        return self.start_step + 1

    def signal(self) -> None:
        """The agent asks to save."""
        self.asked_at = self.line.now if self.asked_at is None else self.asked_at
        answer = self.plan.answer
        if not self.alive or answer == "ignore" or self.saving:
            return
        if answer == "die":
            self._end(None, "SIGTERM")
            return
        self.saving = True
        self.line.after(self.plan.save_seconds, self._answered)

    def kill(self) -> None:
        self._end(None, "SIGKILL")

    def vanish(self) -> None:
        """The machine is gone, and the training with it."""
        if self.alive:
            self.alive = False
            self.world.facts.training_ended(self)

    def _answered(self) -> None:
        if not self.alive:
            return
        self.saving = False
        self._save()
        if self.plan.answer == "save_and_exit":
            self._end(0, None)
        elif self.plan.answer == "save_and_fail":
            self._end(143, None)

    def _next_save(self) -> None:
        self.line.after(self.plan.every, self._periodic)

    def _periodic(self) -> None:
        if self.alive:
            if self.hung_at is None:
                self._save()
            self._next_save()

    def _save(self) -> None:
        if self.step is not None:
            self.machine.saves.append(Saved(self.step, self.line.now))
        self._progress()

    def _progress(self) -> None:
        if self.alive and self.machine.agent is not None:
            self.machine.agent.progressed()

    def _fail(self) -> None:
        if self.alive and self.hung_at is None:
            failures = self.world.facts.failures
            failures[self.machine.run] = failures.get(self.machine.run, 0) + 1
            self._end(1, None)

    def _finish(self) -> None:
        left = FIRST_STEP_AFTER + self.plan.length - self.start_step - self._worked
        if self.alive and self.hung_at is None and left > 1e-6:
            self.line.after(left, self._finish)
        elif self.alive and self.hung_at is None:
            self._save()
            self.world.facts.finished.add((self.plan.spec.run, self.machine.attempt))
            self._end(0, None)

    def _end(self, code: int | None, signal: str | None) -> None:
        if not self.alive:
            return
        self.last = self.step
        self.alive = False
        self.exit = (code, signal)
        self.line.note(f"trainer {self.machine.attempt}", f"exits {code} {signal} after step {self.last}")
        self.world.facts.training_ended(self)
        if self.machine.agent is not None:
            self.machine.agent.trainer_exited()
