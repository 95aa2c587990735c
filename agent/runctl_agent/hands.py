"""Carries out what the core wants done: one method for each effect."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runctl_agent.core import effects, inputs
from runctl_agent.core.model import State
from runctl_agent.edges.attention import Attention
from runctl_agent.edges.follow import Follower
from runctl_agent.edges.keeper import Keeper
from runctl_agent.edges.outlet import Outlet
from runctl_agent.edges.training import Training
from runctl_agent.hardware.sentinel import Sentinel
from runctl_agent.trainer.start import TrainerCannotStart
from runctl_agent.watcher.model import Candidate, Unfinished
from runctl_agent.watcher.watcher import Watcher
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.agent")


MOST_UNFINISHED = 20
"""Incomplete checkpoints that are told by name."""


class Hands:
    """The loop's thread's. `tell` puts an input into the loop's inbox, `state` is the core's as it is now;
    `workdir`: where the training is to run. The rest are the edges."""

    def __init__(
        self,
        workdir: Path,
        clock: Clock,
        tell: Callable[[inputs.Input], None],
        state: Callable[[], State],
        training: Training,
        attention: Attention,
        watcher: Watcher,
        keeper: Keeper,
        outlet: Outlet,
        follower: Follower,
        sentinel: Sentinel,
    ) -> None:
        self._workdir, self._clock, self._tell, self._state = workdir, clock, tell, state
        self._training, self._attention, self._watcher = training, attention, watcher
        self._keeper, self._outlet, self._follower = keeper, outlet, follower
        self._sentinel = sentinel
        self.draining = False
        """Whether the core waits for Drained."""
        self.stopped = False
        """Whether the machine is to end."""

    def carry_out(self, effect: effects.Effect) -> None:
        _METHODS[type(effect)](self, effect)

    def _stage(self, effect: effects.Stage) -> None:
        """On the machine of the local provider, code and data are where the user has them."""
        if self._workdir.is_dir():
            self._tell(inputs.Staged(at=self._now, seconds=0.0))
        else:
            detail = f"The working folder {self._workdir} is not there."
            self._tell(inputs.StagingFailed(at=self._now, detail=detail))

    def _claim(self, effect: effects.Claim) -> None:
        self._keeper.claim()

    def _restore(self, effect: effects.Restore) -> None:
        self._keeper.restore(self._watcher.ignore)

    def _train(self, effect: effects.Train) -> None:
        try:
            self._attention.begin()
            pid = self._training.start(effect.resume_path)
        except Exception as error:
            if not isinstance(error, TrainerCannotStart):
                log.exception("training.cannot_start")
            code = getattr(error, "exit_code", 125)
            self._tell(inputs.TrainingCannotStart(at=self._now, exit_code=code, detail=str(error)))
        else:
            self._tell(inputs.TrainingUp(at=self._now, pid=pid))
            self._sentinel.begin(pid)

    def _ask_to_save(self, effect: effects.AskToSave) -> None:
        pids = self._training.ask_to_save(effect.signal)
        self._tell(inputs.SignalSent(at=self._now, signal=effect.signal, pids=pids))

    def _kill(self, effect: effects.Kill) -> None:
        self._training.kill()

    def _look_around(self, effect: effects.LookAround) -> None:
        self._tell(self._sentinel.look(self._state(), self._training.pid))

    def _flush(self, effect: effects.Flush) -> None:
        state = self._state()
        killed = state.killed or state.exit_signal is not None
        told: set[str] = set()

        def last() -> list[Candidate]:
            found = self._watcher.scan_now(writer_gone=True)
            # Of a training that was killed, only a sign of the format's own shows that a file is whole.
            doubtful = [c for c in found if killed and not c.signed]
            self._tell_unfinished(doubtful, told)
            return [c for c in found if c not in doubtful]

        self._keeper.flush(last)

    def _tell_unfinished(self, doubtful: list[Candidate], told: set[str]) -> None:
        """Once each, what is not stored because it is not complete, or because nobody knows that it is."""
        killed = "the training was killed, and nothing in it shows that it is whole"
        unfinished = [
            Unfinished(
                c.root_name,
                "; ".join(filter(None, (self._watcher.restless(c.root_name), killed))),
                sum(f.size for f in c.files),
                c.written_at,
            )
            for c in doubtful
        ] + self._watcher.unfinished()
        for each in unfinished[:MOST_UNFINISHED]:
            if each.root_name not in told:
                told.add(each.root_name)
                written_at = self._now - max(0.0, self._clock.now() - each.written_at)
                self._tell(
                    inputs.NeverComplete(
                        at=self._now,
                        root=each.root_name,
                        reason=each.why,
                        size=each.size,
                        written_at=written_at,
                    )
                )

    def _write_end(self, effect: effects.WriteEnd) -> None:
        self._keeper.write_end(effect.record)

    def _forget(self, effect: effects.Forget) -> None:
        self._outlet.forget(effect.through, self._now)

    def _send_again(self, effect: effects.SendAgain) -> None:
        self._outlet.again(effect.after, self._now)

    def _follow(self, effect: effects.Follow) -> None:
        self._follower.follow(effect.seconds, effect.offset, self._now)

    def _drain(self, effect: effects.Drain) -> None:
        self.draining = True

    def _shut_down(self, effect: effects.ShutDown) -> None:
        self.stopped = True

    @property
    def _now(self) -> float:
        return self._clock.monotonic()


_METHODS: dict[type[effects.Effect], Callable[[Hands, Any], None]] = {
    effects.Stage: Hands._stage,
    effects.Claim: Hands._claim,
    effects.Restore: Hands._restore,
    effects.Train: Hands._train,
    effects.AskToSave: Hands._ask_to_save,
    effects.Kill: Hands._kill,
    effects.LookAround: Hands._look_around,
    effects.Flush: Hands._flush,
    effects.WriteEnd: Hands._write_end,
    effects.Forget: Hands._forget,
    effects.SendAgain: Hands._send_again,
    effects.Follow: Hands._follow,
    effects.Drain: Hands._drain,
    effects.ShutDown: Hands._shut_down,
}
