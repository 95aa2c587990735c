"""The agent's process: the real engine, and edges that do at once, or a little later, what its core wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runctl_agent.core import effects, inputs
from runctl_agent.core.phases import Phase
from runctl_agent.engine import Engine
from runctl_agent.spool.memory import MemorySpool
from runctl_controller.providers.port import EndCause
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.repository import ClaimRefused, RunRepository
from runctl_shared.messages.base import Body
from runctl_shared.messages.events import Registered
from runctl_testing.sim.trainer import SimTrainer
from runctl_testing.sim.uploads import STORE_WAIT, Uploads

if TYPE_CHECKING:
    from runctl_testing.sim.cloud import Notice, SimMachine
    from runctl_testing.sim.wire import Command

STORE_TRIES = 20


class SimAgent:
    """`life` counts its processes: what an earlier one had under way never comes back."""

    uploads: Uploads

    def __init__(self, machine: SimMachine) -> None:
        self.machine, self.world, self.line = machine, machine.world, machine.world.line
        self.id = machine.boot.agent
        self.name = f"agent {machine.attempt}"
        self.life = 0
        self.alive = False
        self.connected = True
        self.started_at = 0.0
        self.noticed_until: float | None = None
        self.repository = RunRepository(self.world.vault, machine.run)

    # -- the process --------------------------------------------------------------------------

    def start(self) -> None:
        if not self.machine.alive or self.alive:
            return
        self.life += 1
        self.alive = True
        self.started_at = self.line.now
        self.sent = 0
        self.stalled = 0
        self.ticking: float | None = None
        self.draining = False
        self.uploads = Uploads(self)
        self.spool = MemorySpool(self._recorded, self.machine.spool)
        self.engine = Engine(self.spool, self.machine.boot, self.machine.monotonic)
        self.line.note(self.name, f"starts, life {self.life}, phase {self.engine.state.phase.value}")
        if not self.give(self._booted()):
            return
        self.uploads.retell()
        self.later(self.world.config.heartbeat, self._beat)
        for fault in self.machine.faults:
            self.give(fault)  # the kernel's log still has it
        self._notices_again()
        self.progressed()
        self.world.wire.flush(self)

    def _booted(self) -> inputs.Booted:
        hello = Registered(protocol=1, version="sim", capabilities=())
        trainer, at = self.machine.trainer, self.machine.monotonic
        if not self.engine.again or trainer is None:
            return inputs.Booted(at=at, hello=hello, again=self.engine.again)
        if trainer.alive:
            return inputs.Booted(at=at, hello=hello, again=True, trainer="alive", pid=7)
        code, signal = trainer.exit or (None, None)
        return inputs.Booted(at=at, hello=hello, again=True, trainer="exited", exit_code=code, signal=signal)

    def stop(self) -> None:
        """The process is gone, whatever it was at."""
        self.alive = False
        self.life += 1

    def crash(self) -> None:
        if self.alive:
            self.line.note(self.name, "CRASHES")
            self.stop()
            self.line.after(self.world.rng.uniform(1.0, 30.0), self.start)

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        life = self.life
        self.line.after(seconds, lambda: act() if self.life == life and self.alive else None)

    # -- driving the core ---------------------------------------------------------------------

    def give(self, given: inputs.Input) -> bool:
        """One input; False when the process did not survive it."""
        if not self.alive:
            return False
        self.line.note(self.name, given)
        before, life = self.engine.state, self.life
        wanted = self.engine.handle(given, self.line.now)
        self.world.facts.agent_decided(self, given, before, wanted)
        if self._dies():
            return False
        self.send()
        for effect in wanted:
            self.line.note(self.name, effect)
            _EFFECTS[type(effect)](self, effect)
            if self.life != life or self._dies():
                return False
        self._arm()
        return True

    def _dies(self) -> bool:
        if self.world.chance("crash_agent"):
            self.crash()
            return True
        return False

    def _arm(self) -> None:
        due = self.engine.due
        if due is not None and due != self.ticking:
            self.ticking = due
            self.later(max(0.0, due - self.machine.monotonic), lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self.ticking == due:
            self.ticking = None
            self.give(inputs.Tick(at=max(due, self.machine.monotonic)))

    @property
    def now(self) -> float:
        return self.machine.monotonic

    # -- the wire -----------------------------------------------------------------------------

    def _recorded(self, body: Body, sequence: int, at: float) -> bytes:
        self.world.facts.recorded(self.id, sequence, body)
        return b""

    def send(self) -> None:
        """What is in the spool and was not sent since the link came up."""
        if self.connected and self.spool.last_sequence > self.sent:
            for item in self.spool.pending(after=self.sent):
                self.world.wire.send_event(self.id, item.sequence)
            self.sent = self.spool.last_sequence

    def link(self, up: bool) -> None:
        self.connected = up
        if up and self.alive:
            self.sent = 0
            self.send()
            self.world.wire.flush(self)

    def _beat(self) -> None:
        self.later(self.world.config.heartbeat, self._beat)
        self._see_steps()
        if not self.alive or not self.connected:
            return
        self.world.wire.heartbeat(self.id)
        # What is not acknowledged for long is sent again: an acknowledgement may be lost as well.
        self.stalled = 0 if self.spool.empty else self.stalled + 1
        if self.stalled >= 2:
            self.stalled = self.sent = 0
            self.send()

    def command(self, item: Command) -> bool:
        """A command; False when it has to be delivered again."""
        return self.give(
            inputs.CommandArrived(
                at=self.now, id=item.id, attempt=item.attempt, kind=type(item.body).__name__, body=item.body
            )
        )

    def _forget(self, effect: effects.Forget) -> None:
        self.world.facts.forgotten(self, effect.through)
        self.spool.forget(effect.through)
        self.stalled = 0
        self._drain_if_empty()

    def _send_again(self, effect: effects.SendAgain) -> None:
        self.sent = min(self.sent, effect.after)
        self.send()

    def _drain(self, effect: effects.Drain) -> None:
        self.draining = True
        self.later(0.1, self._drain_if_empty)

    def _drain_if_empty(self) -> None:
        if self.draining and self.spool.empty:
            self.draining = False
            self.later(0.0, lambda: self._tell(inputs.Drained(at=self.now)))

    def _tell(self, given: inputs.Input) -> None:
        self.give(given)

    # -- notices ------------------------------------------------------------------------------

    def _notices_again(self) -> None:
        """After a restart: what stood before, and is not served any more, has been withdrawn meanwhile."""
        stood, served = self.engine.state.interruption, self.machine.notice
        if stood is not None and (served is None or served.id != stood):
            self.give(inputs.NoticeGone(at=self.now, id=stood))
        self.look_for_notice()

    def look_for_notice(self) -> None:
        if self.alive and self.machine.notice is not None:
            self.noticed(self.machine.notice)

    def noticed(self, notice: Notice) -> None:
        interruption = notice.kind == "interruption"
        if interruption:
            self.noticed_until = notice.taken_at
        self.give(
            inputs.NoticeSeen(
                at=self.now,
                id=notice.id,
                kind="interruption" if interruption else "rebalance",
                action="terminate",
                deadline=notice.taken_at - self.line.now if interruption else None,
                source="sim",
            )
        )

    def notice_gone(self, notice: Notice) -> None:
        self.give(inputs.NoticeGone(at=self.now, id=notice.id))

    # -- before the training ------------------------------------------------------------------

    def _stage(self, effect: effects.Stage) -> None:
        wait = self.world.rng.uniform(0.5, 10.0)
        self.later(wait, lambda: self._tell(inputs.Staged(at=self.now, seconds=1.0)))

    def _claim(self, effect: effects.Claim) -> None:
        self.later(0.5, lambda: self._try_claim(STORE_TRIES))

    def _try_claim(self, tries: int) -> None:
        try:
            found = self.repository.eligible()
            parent = found[0].name if found else None
            claim = self.repository.claim(self.machine.attempt, self.id, parent, self.line.now)
        except ClaimRefused as refused:
            self.give(inputs.ClaimFailed(at=self.now, superseded=True, detail=str(refused)))
        except ObjectStoreError as error:
            failed = inputs.ClaimFailed(at=self.now, superseded=False, detail=str(error))
            self._again(tries, self._try_claim, failed)
        else:
            self.give(inputs.Claimed(at=self.now, parent=claim.parent))

    def _again(self, tries: int, act: Callable[[int], None], failed: inputs.Input) -> None:
        """The store does not answer: again a little later, and give up in the end."""
        if tries > 0:
            self.later(STORE_WAIT, lambda: act(tries - 1))
        else:
            self.give(failed)

    def _restore(self, effect: effects.Restore) -> None:
        self.later(self.world.rng.uniform(1.0, 10.0), lambda: self._try_restore(STORE_TRIES))

    def _try_restore(self, tries: int) -> None:
        try:
            found = self.repository.eligible()
        except ObjectStoreError as error:
            self._again(tries, self._try_restore, inputs.RestoreFailed(at=self.now, detail=str(error)))
            return
        if not found:
            self.give(inputs.Restored(at=self.now, manifest=None))
            return
        name, step = found[0].name, found[0].step
        self.give(inputs.Restored(at=self.now, manifest=name, path="/restored", step=step, size=1))

    # -- the training -------------------------------------------------------------------------

    def _train(self, effect: effects.Train) -> None:
        self.later(0.5, lambda: self._start_training(effect))

    def _start_training(self, effect: effects.Train) -> None:
        if self.machine.trainer is None:
            step = self.engine.state.restored_step if effect.resume_path is not None else None
            self.machine.trainer = SimTrainer(self.machine, step)
            self.give(inputs.TrainingUp(at=self.now, pid=7))

    def progressed(self) -> None:
        """The training made its first step, or a checkpoint."""
        if self.alive:
            self._see_steps()
            self.uploads.scan()

    def _see_steps(self) -> None:
        trainer = self.machine.trainer
        if not self.alive or trainer is None or self.engine.state.started_at is None:
            return
        step = trainer.step if trainer.alive else trainer.last
        if step is None:
            return
        if self.engine.state.first_step is None and not self.give(
            inputs.StepSeen(at=self.now, step=trainer.first_step)
        ):
            return
        if step != self.engine.state.last_step:
            self.give(inputs.StepSeen(at=self.now, step=step))

    def trainer_exited(self) -> None:
        if self.alive:
            self.later(0.2, self._tell_exit)

    def _tell_exit(self) -> None:
        self._see_steps()
        trainer = self.machine.trainer
        if self.alive and trainer is not None and trainer.exit is not None:
            code, signal = trainer.exit
            self.give(inputs.TrainingExited(at=self.now, exit_code=code, signal=signal))

    def _ask(self, effect: effects.AskToSave) -> None:
        if self.machine.trainer is not None:
            self.machine.trainer.signal()
            self.later(0.0, lambda: self._tell(inputs.SignalSent(at=self.now, signal="SIGTERM", pids=(7,))))

    def _kill(self, effect: effects.Kill) -> None:
        if self.machine.trainer is not None:
            self.machine.trainer.kill()

    def _look_around(self, effect: effects.LookAround) -> None:
        self.later(0.1, self._looked)

    def _looked(self) -> None:
        trainer = self.machine.trainer
        moved = trainer.moved_at if trainer is not None else None
        self.give(
            inputs.LookedAround(
                at=self.now,
                moved_at=None if moved is None else self.now - (self.line.now - moved),
                cpu=self.world.rng.choice((0.0, 0.0, 0.9, None)),
            )
        )

    # -- the end ------------------------------------------------------------------------------

    def _write_end(self, effect: effects.WriteEnd) -> None:
        try:
            self.repository.write_end(self.machine.attempt, effect.record)
        except ObjectStoreError:
            self.later(STORE_WAIT, lambda: self._write_end(effect))
            return
        self.later(0.1, lambda: self._tell(inputs.EndRecorded(at=self.now)))

    def _shut_down(self, effect: effects.ShutDown) -> None:
        self.machine.end(EndCause.ITSELF)

    @property
    def phase(self) -> Phase:
        return self.engine.state.phase


_EFFECTS: dict[type[effects.Effect], Callable[[SimAgent, Any], None]] = {
    effects.Forget: SimAgent._forget,
    effects.SendAgain: SimAgent._send_again,
    effects.Drain: SimAgent._drain,
    effects.Stage: SimAgent._stage,
    effects.Claim: SimAgent._claim,
    effects.Restore: SimAgent._restore,
    effects.Train: SimAgent._train,
    effects.AskToSave: SimAgent._ask,
    effects.Kill: SimAgent._kill,
    effects.LookAround: SimAgent._look_around,
    effects.Flush: lambda agent, effect: agent.uploads.flush(),
    effects.WriteEnd: SimAgent._write_end,
    effects.ShutDown: SimAgent._shut_down,
}
