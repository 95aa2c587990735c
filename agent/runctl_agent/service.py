"""The agent's loop: one thread drives the core; the edges put inputs into its inbox."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import Any

from runctl_agent.core import effects, inputs
from runctl_agent.core.ending import trigger
from runctl_agent.core.phases import Phase
from runctl_agent.edges.beat import heartbeat
from runctl_agent.edges.follow import Follower
from runctl_agent.edges.keeper import Keeper
from runctl_agent.edges.logship import LogShipper
from runctl_agent.edges.outlet import RETRY, Outlet
from runctl_agent.edges.place import Place
from runctl_agent.edges.training import Training
from runctl_agent.engine import Engine
from runctl_agent.host_metrics import HostMetrics
from runctl_agent.notices.model import Notice
from runctl_agent.progress.feed import ProgressFeed
from runctl_agent.progress.model import Kind
from runctl_agent.spool.port import Spool
from runctl_agent.trainer.output import OutputTail
from runctl_agent.trainer.start import TrainerCannotStart
from runctl_agent.watcher.model import Candidate
from runctl_agent.watcher.watcher import Watcher
from runctl_shared.bus.port import Address, Bus, Delivery, Stream
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.errors import RunctlError
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Malformed, decode, encode
from runctl_shared.messages.events import OutputSeen
from runctl_shared.spec import Boot

log = logging.getLogger("runctl.agent")


class Service:
    """Configuration: `boot`, `place`. Dependencies: clock, bus, spool, repository. The rest is guarded by
    being touched from the loop's thread only."""

    def __init__(
        self, boot: Boot, place: Place, clock: Clock, bus: Bus, spool: Spool, repository: RunRepository
    ) -> None:
        self._boot, self._place, self._clock, self._bus, self._spool = boot, place, clock, bus, spool
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._engine = Engine(spool, boot, clock.monotonic())
        self._outlet = Outlet(bus, spool, boot.agent, self._unconfirmed)
        self._feed = ProgressFeed(clock, self._progressed)
        self._metrics = HostMetrics(place.checkpoints)
        self._follower = Follower(place.output, self._send_output)
        self._training = Training(place, boot, clock, self._exited)
        self._watcher = Watcher(place.checkpoints, self._complete, clock, memory=place.taken)
        self._keeper = Keeper(
            repository,
            place,
            boot,
            clock,
            self.tell,
            self._watcher.mark_committed,
            self._watcher.forget,
            self._feed.tracker.step_before,
            lambda written_at: trigger(self._engine.state, written_at),
        )
        self._shipper = LogShipper(clock, self._keeper.write_log)
        self._tail = OutputTail(place.output, [self._shipper, self._feed, self])
        self._tailing = False
        self._first_step = False
        self._draining = False
        self._next_beat = 0.0
        self._stopped = False

    # -- inputs, from any thread --------------------------------------------------------------

    def tell(self, given: inputs.Input) -> None:
        self._inbox.put(lambda: self._take(given))

    def on_notice(self, notice: Notice) -> None:
        now = self._clock.monotonic()
        if notice.change == "withdrawn":
            self.tell(inputs.NoticeGone(at=now, id=notice.id))
        else:
            self.tell(
                inputs.NoticeSeen(
                    at=now,
                    id=notice.id,
                    kind=notice.kind,
                    action=notice.action,
                    deadline=notice.deadline_in,
                    source=notice.source,
                )
            )

    def on_command(self, delivery: Delivery) -> None:
        self._inbox.put(lambda: self._command(delivery))

    def _complete(self, candidate: Candidate) -> None:
        self._keeper.add(candidate)

    def _exited(self, code: int | None, signal: str | None) -> None:
        # Everything that was printed is read before the end is told: the last step counts.
        if self._tailing:
            self._tail.finish(30.0)
        self._inbox.put(lambda: self._training_over(code, signal))

    def _unconfirmed(self, sequence: int) -> None:
        self._inbox.put(lambda: self._outlet.again(sequence - 1, self._clock.monotonic(), RETRY))

    def _progressed(self) -> None:
        tracker = self._feed.tracker
        if self._first_step or tracker.first_step is None or tracker.kind is None:
            return
        restored = self._engine.state.restored_step
        if tracker.kind < Kind.ITERATION and restored is not None and tracker.first_step < restored:
            return  # a bar that begins anew with each epoch is no proof of a restart from the beginning
        self._first_step = True
        self.tell(inputs.StepSeen(at=self._clock.monotonic(), step=tracker.first_step))

    # As a listener of the output's tail: new output wakes the follower up.
    def chunk(self, offset: int, data: bytes) -> None:
        self._inbox.put(self._pump_output)

    def pause(self) -> None:
        """Nothing to do."""

    def end(self) -> None:
        self._inbox.put(self._pump_output)

    # -- the loop's thread --------------------------------------------------------------------

    def run(self, hello: Body) -> None:
        """Until the machine is to end. `hello` is the agent's Registered."""
        now = self._clock.monotonic()
        booted = inputs.Booted(at=now, hello=hello, again=self._engine.again)
        if self._engine.again:
            booted = self._training.find(now, booted)
            if self._engine.state.started_at is not None:
                self._watch()
                self._keeper.retell(self._engine.state.saved_at)
        subscription = self._bus.subscribe(Address(Stream.COMMANDS, self._boot.agent), self.on_command)
        self._take(booted)
        while not self._stopped:
            try:
                act = self._inbox.get(timeout=self._wait())
            except queue.Empty:
                pass
            else:
                act()
            self._regularly()
        subscription.close()
        self._watcher.stop()
        self._keeper.close(5.0)

    def _wait(self) -> float:
        now = self._clock.monotonic()
        times = [self._next_beat, self._engine.due, self._outlet.due(now)]
        return max(0.0, min(t for t in times if t is not None) - now)

    def _regularly(self) -> None:
        now = self._clock.monotonic()
        due = self._engine.due
        if due is not None and now >= due:
            self._take(inputs.Tick(at=now))
        self._outlet.pump(now)
        if now >= self._next_beat:
            self._next_beat = now + self._boot.timing.heartbeat
            self._beat(now)
        self._pump_output()
        if self._draining and self._spool.empty:
            self._draining = False
            self._take(inputs.Drained(at=now))

    def _take(self, given: inputs.Input) -> None:
        before = self._engine.state.phase
        for effect in self._engine.handle(given, self._clock.now()):
            _EFFECTS[type(effect)](self, effect)
        if self._engine.state.phase is not before:
            self._next_beat = 0.0

    def _command(self, delivery: Delivery) -> None:
        """De-duplicated and stored with the state before it is acknowledged; carried out after."""
        try:
            message = decode(delivery.body)
        except Malformed as error:
            delivery.dead_letter(f"malformed: {error}")
            return
        head = message.envelope
        self._take(
            inputs.CommandArrived(
                at=self._clock.monotonic(),
                id=head.id,
                attempt=head.attempt,
                kind=head.kind,
                body=message.body,
            )
        )
        delivery.ack()

    def _beat(self, now: float) -> None:
        state, sequence = self._engine.state, self._spool.last_sequence
        with self._feed.lock:
            step = self._feed.tracker.step
        if self._first_step and step is not None and step != state.last_step:
            self._take(inputs.StepSeen(at=now, step=step))
        body = heartbeat(self._engine.state, self._feed, self._metrics, self._training.pid, sequence, now)
        self._publish(Stream.HEARTBEATS, body)
        self._shipper.pause()

    def _publish(self, stream: Stream, body: Body) -> None:
        """Beside the numbered events: whether it arrives matters to nobody."""
        message = new_id("msg")
        spec = self._boot.spec
        data = encode(
            body,
            id=message,
            run=spec.run,
            attempt=self._boot.attempt,
            agent=self._boot.agent,
            sent=self._clock.now(),
        )
        self._bus.publish(Address(stream, self._boot.agent, type(body).__name__), data, message_id=message)

    def _send_output(self, offset: int, data: bytes) -> None:
        self._publish(Stream.EVENTS, OutputSeen(offset=offset, data=data))

    def _pump_output(self) -> None:
        self._follower.pump(self._clock.monotonic())

    def _training_over(self, code: int | None, signal: str | None) -> None:
        now = self._clock.monotonic()
        with self._feed.lock:
            step = self._feed.tracker.step
        if self._first_step and step is not None:
            self._take(inputs.StepSeen(at=now, step=step))
        detail = ""
        if signal is not None or code:
            how = f"signal {signal}" if signal is not None else f"exit code {code}"
            detail = ": ".join(part for part in (how, self._training.last_words()) if part)
        self._take(inputs.TrainingExited(at=now, exit_code=code, signal=signal, detail=detail))

    # -- effects ------------------------------------------------------------------------------

    def _stage(self, effect: effects.Stage) -> None:
        """On the machine of the local provider, code and data are where the user has them."""
        from pathlib import Path

        now = self._clock.monotonic()
        folder = Path(self._boot.spec.workdir)
        if folder.is_dir():
            self.tell(inputs.Staged(at=now, seconds=0.0))
        else:
            self.tell(inputs.StagingFailed(at=now, detail=f"The working folder {folder} is not there."))

    def _claim(self, effect: effects.Claim) -> None:
        self._keeper.claim()

    def _restore(self, effect: effects.Restore) -> None:
        self._keeper.restore(self._watcher.ignore)

    def _train(self, effect: effects.Train) -> None:
        self._watch()
        try:
            pid = self._training.start(effect.resume_path)
        except (TrainerCannotStart, RunctlError) as error:
            code = getattr(error, "exit_code", 125)
            self.tell(
                inputs.TrainingCannotStart(at=self._clock.monotonic(), exit_code=code, detail=str(error))
            )
        else:
            self.tell(inputs.TrainingUp(at=self._clock.monotonic(), pid=pid))

    def _watch(self) -> None:
        if not self._tailing:
            self._tailing = True
            self._tail.start()
            self._watcher.start()

    def _ask_to_save(self, effect: effects.AskToSave) -> None:
        pids = self._training.ask_to_save(effect.signal)
        self.tell(inputs.SignalSent(at=self._clock.monotonic(), signal=effect.signal, pids=pids))

    def _kill(self, effect: effects.Kill) -> None:
        self._training.kill()

    def _flush(self, effect: effects.Flush) -> None:
        state = self._engine.state
        killed = state.killed or state.exit_signal is not None

        def last() -> list[Candidate]:
            found = self._watcher.scan_now(writer_gone=True)
            # Of a training that was killed, only a sign of the format's own shows that a file is whole.
            return [c for c in found if c.signed or not killed]

        self._keeper.flush(last, hurry=state.deadline_at is not None)

    def _write_end(self, effect: effects.WriteEnd) -> None:
        self._keeper.write_end(effect.record)

    def _forget(self, effect: effects.Forget) -> None:
        self._outlet.forget(effect.through, self._clock.monotonic())

    def _send_again(self, effect: effects.SendAgain) -> None:
        self._outlet.again(effect.after, self._clock.monotonic())

    def _follow(self, effect: effects.Follow) -> None:
        self._follower.follow(effect.seconds, effect.offset, self._clock.monotonic())

    def _drain(self, effect: effects.Drain) -> None:
        self._draining = True

    def _shut_down(self, effect: effects.ShutDown) -> None:
        self._stopped = True

    @property
    def phase(self) -> Phase:
        return self._engine.state.phase


_EFFECTS: dict[type[effects.Effect], Callable[[Service, Any], None]] = {
    effects.Stage: Service._stage,
    effects.Claim: Service._claim,
    effects.Restore: Service._restore,
    effects.Train: Service._train,
    effects.AskToSave: Service._ask_to_save,
    effects.Kill: Service._kill,
    effects.Flush: Service._flush,
    effects.WriteEnd: Service._write_end,
    effects.Forget: Service._forget,
    effects.SendAgain: Service._send_again,
    effects.Follow: Service._follow,
    effects.Drain: Service._drain,
    effects.ShutDown: Service._shut_down,
}
