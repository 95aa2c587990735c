"""Who asks for things: submits, stops, resumes, cancels, drills, and does not give up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from runctl_controller.core.tables import RunState
from runctl_shared.errors import RefusedByGuard, RunctlError
from runctl_shared.messages.base import Body
from runctl_shared.messages.requests import CancelRun, InterruptRun, ResumeRun, StopRun, SubmitRun
from runctl_testing.sim.facts import require
from runctl_testing.sim.scenario import ALWAYS, Act, Plan

if TYPE_CHECKING:
    from runctl_testing.sim.world import World

LATER = 7.0


class SimUser:
    """`wish`: what they want to become of the run, as far as runctl has agreed to it."""

    def __init__(self, world: World, plan: Plan) -> None:
        self.world, self.line, self.plan = world, world.line, plan
        self.run = plan.spec.run
        self.wish: Literal["train", "pause", "cancel"] = "train"
        self.resumed = 0
        self._acts: dict[Act, Callable[[], object]] = {
            "stop": self.stop,
            "stop_resume": self._stop_resume,
            "cancel": lambda: self.cancel(False),
            "drill": lambda: self._ask(InterruptRun(run=self.run, notice=self.world.rng.uniform(5.0, 90.0))),
            "submit_again": self.submit,
        }
        line = self.line
        line.after(0.0, self.submit)
        for when, act in plan.acts:
            line.after(when, self._do(act))

    def _do(self, act: Act) -> Callable[[], None]:
        def run() -> None:
            self._acts[act]()

        return run

    def submit(self) -> None:
        if not self._ask(SubmitRun(spec=self.plan.spec)):
            self.line.after(LATER, self.submit)

    def stop(self) -> None:
        if self.wish == "train" and self._ask(StopRun(run=self.run)):
            self.wish = "pause"

    def _stop_resume(self) -> None:
        self.stop()
        self.line.after(self.world.rng.uniform(20.0, 200.0), self.resume)

    def resume(self) -> None:
        if self.wish != "pause":
            return
        if self._ask(ResumeRun(run=self.run)):
            self.wish = "train"
        elif self.world.state(self.run) not in (RunState.SUCCEEDED, RunState.CANCELLED):
            self.line.after(20.0, self.resume)

    def cancel(self, force: bool) -> None:
        training = bool(self.world.facts.training.get(self.run))
        if self._ask(CancelRun(run=self.run, force=force)):
            require(force or not training, f"{self.run} was cancelled without force while it trained")
            self.wish = "cancel"
        elif not force:
            self.line.after(3.0, lambda: self.cancel(True))

    def _ask(self, body: Body) -> bool:
        controller = self.world.controller
        if controller is None or controller.asleep:
            return False
        self.line.note("user", body)
        if isinstance(body, CancelRun) and body.force:
            self.world.facts.cancelled.add(self.run)
        try:
            controller.request(self.run, body)
        except RefusedByGuard as refused:
            self.line.note("user", f"is refused: {refused}")
            return False
        except RunctlError as error:
            self.line.note("user", f"fails: {error}")
            return False
        return True

    def insist(self) -> None:
        """When all is calm: have what was started and did not get through go on."""
        state = self.world.state(self.run)
        if state is None:
            self.submit()
        limited = self.plan.spec.max_seconds is not None
        stopped = state is RunState.STUCK or (state is RunState.PAUSED and not limited)
        if self.wish == "train" and stopped and self.resumed < (1 if self.plan.hangs == ALWAYS else 8):
            self.resumed += 1
            self._ask(ResumeRun(run=self.run))
