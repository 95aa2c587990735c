"""The agent's loop: one thread drives the core; the edges put inputs into its inbox."""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from functools import partial
from pathlib import Path

from runctl_agent.core import inputs
from runctl_agent.core.commands import ONCE
from runctl_agent.core.ending import trigger
from runctl_agent.edges import losses
from runctl_agent.edges.attention import Attention
from runctl_agent.edges.beat import heartbeat
from runctl_agent.edges.follow import Follower
from runctl_agent.edges.keeper import Keeper
from runctl_agent.edges.logship import LogShipper
from runctl_agent.edges.outlet import RETRY, Outlet
from runctl_agent.edges.place import Place
from runctl_agent.edges.rivals import Rivals
from runctl_agent.edges.training import Training
from runctl_agent.engine import Engine
from runctl_agent.hands import Hands
from runctl_agent.hardware.pulse import Pulse
from runctl_agent.hardware.sentinel import Sentinel
from runctl_agent.host_metrics import HostMetrics
from runctl_agent.notices.model import Notice
from runctl_agent.progress.feed import ProgressFeed
from runctl_agent.progress.model import Kind
from runctl_agent.spool.port import Spool
from runctl_agent.trainer.output import OutputTail
from runctl_agent.watcher.watcher import Watcher
from runctl_shared.bus.port import Address, Bus, Delivery, Stream
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Malformed, decode, encode
from runctl_shared.messages.events import OutputSeen
from runctl_shared.spec import Boot

log = logging.getLogger("runctl.agent")
PAUSE = 1.0
"""Seconds until what has failed is tried again."""


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
        self._sentinel = Sentinel(
            clock, self._metrics, Pulse(clock, place.checkpoints), self.tell, boot.timing.heartbeat
        )
        self._follower = Follower(place.output, self._send_output)
        self._training = Training(place, boot, clock, self._exited)
        rivals = Rivals(
            place.checkpoints,
            clock,
            lambda: self._training.pid,
            lambda: self._engine.state.asked_at is not None,
            self.tell,
        )
        watcher = Watcher(
            place.checkpoints,
            lambda found: self._keeper.add(found),
            clock,
            memory=place.taken,
            on_busy=rivals.busy,
        )
        self._keeper = Keeper(
            repository,
            place,
            boot,
            clock,
            self.tell,
            watcher.mark_committed,
            watcher.forget,
            self._feed.tracker.step_before,
            lambda written_at: trigger(self._engine.state, written_at),
            self._feed.losses,
        )
        self._shipper = LogShipper(clock, self._keeper.write_log)
        self._attention = Attention(
            OutputTail(place.output, [self._shipper, self._feed, self._sentinel, self]),
            watcher,
        )
        self._hands = Hands(
            Path(boot.spec.workdir),
            clock,
            self.tell,
            lambda: self._engine.state,
            self._training,
            self._attention,
            watcher,
            self._keeper,
            self._outlet,
            self._follower,
            self._sentinel,
        )
        self._next_beat = self._next_losses = 0.0
        self._up = False
        self._failed = False
        self._unacknowledged: list[Delivery] = []
        self._awake_until = clock.monotonic()

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

    def _exited(self, code: int | None, signal: str | None) -> None:
        # Everything that was printed is read before the end is told: the last step counts.
        self._attention.all_read(30.0)
        self._inbox.put(lambda: self._training_over(code, signal))

    def _unconfirmed(self, sequence: int) -> None:
        self._inbox.put(lambda: self._outlet.again(sequence - 1, self._clock.monotonic(), RETRY))

    def _progressed(self) -> None:
        if self._engine.state.first_step is None:  # later steps are sampled, with the heartbeats
            self._inbox.put(self._take_steps)

    # As a listener of the output's tail: new output wakes the follower up.
    def chunk(self, offset: int, data: bytes) -> None:
        self._inbox.put(self._pump_output)

    def pause(self) -> None:
        """Nothing to do."""

    def end(self) -> None:
        self._inbox.put(self._pump_output)

    # -- the loop's thread --------------------------------------------------------------------

    @property
    def standing(self) -> tuple[str, ...]:
        """The ids of the notices that stood when the agent was last running."""
        state = self._engine.state
        return state.notices if state.interruption is None else (*state.notices, state.interruption)

    def run(self, hello: Body) -> None:
        """Until the machine is to end. `hello` is the agent's Registered.

        Raises what keeps the agent from coming up; afterwards nothing does: whatever fails is logged and,
        where that makes sense, tried again. A training must not lose its agent over a full disk."""
        booted = self._find(hello)
        ever_trained = booted.trainer != "none" or self._engine.state.started_at is not None
        if ever_trained:
            self._keeper.retell(self._engine.state.saved_manifest)
        subscription = self._bus.subscribe(Address(Stream.COMMANDS, self._boot.agent), self.on_command)
        self._take(booted)
        if ever_trained:
            self._attention.begin()
            self._sentinel.begin(booted.pid or 0, self._engine.state.started_at)
        while not self._hands.stopped:
            self._turn()
        subscription.close()
        self._attention.stop()
        self._sentinel.stop()
        self._keeper.close(5.0)

    def _find(self, hello: Body) -> inputs.Booted:
        """What there is of the attempt on this machine."""
        now = self._clock.monotonic()
        booted = inputs.Booted(at=now, hello=hello, again=self._engine.again)
        return self._training.find(now, booted) if self._engine.again else booted

    def _turn(self) -> None:
        """One thing out of the inbox, or the wait for one, and then whatever is due."""
        wait = PAUSE if self._failed else self._wait()
        self._awake_until += wait
        try:
            act = self._inbox.get(timeout=wait)
        except queue.Empty:
            pass
        except Exception as error:
            self._failed = True
            _log(error)
            return
        else:
            self._guarded(act)
        due = (
            self._settle,
            self._tick,
            self._pump_events,
            self._beat_if_due,
            self._pump_output,
            self._drained,
        )
        # Each on its own: a disk that cannot be read must not silence the heartbeats.
        done = [self._guarded(each) for each in due]
        self._failed = not all(done)

    def _guarded(self, act: Callable[[], None]) -> bool:
        try:
            act()
        except Exception as error:
            _log(error)
            return False
        return True

    def _wait(self) -> float:
        now = self._clock.monotonic()
        times = [self._next_beat, self._engine.due, self._outlet.due(now)]
        if not self._engine.stored:
            times.append(now + PAUSE)
        return max(0.0, min(t for t in times if t is not None) - now)

    def _settle(self) -> None:
        """What had to wait until the disk has the state."""
        self._engine.store()
        if not self._engine.stored:
            return
        while self._unacknowledged:
            self._unacknowledged.pop().ack()
        if not self._up:
            self._place.started.touch()  # from now on, whoever boots the machine takes the boot for done
            self._up = True

    def _tick(self) -> None:
        due, now = self._engine.due, self._clock.monotonic()
        slept, self._awake_until = max(0.0, now - self._awake_until), now
        if due is not None and now >= due:
            self._take(inputs.Tick(at=now, slept=slept))

    def _pump_events(self) -> None:
        self._outlet.pump(self._clock.monotonic())

    def _pump_output(self) -> None:
        self._follower.pump(self._clock.monotonic())

    def _drained(self) -> None:
        if self._hands.draining and self._engine.stored and self._spool.empty:
            self._hands.draining = False
            self._take(inputs.Drained(at=self._clock.monotonic()))

    def _take(self, given: inputs.Input) -> None:
        before = self._engine.state.phase
        wanted = self._engine.handle(given, self._clock.now())
        self._keeper.hurry(self._engine.state.deadline_at is not None)
        for effect in wanted:
            self._guarded(partial(self._hands.carry_out, effect))
        if self._engine.state.phase is not before:
            self._next_beat = 0.0

    def _command(self, delivery: Delivery) -> None:
        """De-duplicated and stored with the state before it is acknowledged; carried out at once."""
        try:
            message = decode(delivery.body)
        except Malformed as error:
            delivery.dead_letter(f"malformed: {error}")
            return
        head = message.envelope
        given = inputs.CommandArrived(
            at=self._clock.monotonic(),
            id=head.id,
            attempt=head.attempt,
            kind=head.kind,
            body=message.body,
        )
        try:
            self._take(given)
        except Exception as error:
            delivery.dead_letter(f"failed: {type(error).__name__}")
            raise
        if self._engine.stored or not isinstance(message.body, ONCE):
            delivery.ack()
        else:
            self._unacknowledged.append(delivery)

    def _beat_if_due(self) -> None:
        now = self._clock.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._boot.timing.heartbeat
            self._beat(now)

    def _beat(self, now: float) -> None:
        self._take_steps()
        sequence = self._spool.last_sequence
        state, pid, gpus = self._engine.state, self._training.pid, self._sentinel.gpus()
        if state.stalled_at is not None and self._sentinel.moved_since(state.stalled_at):
            self._take(inputs.Moved(at=now))
            state = self._engine.state
        body = heartbeat(state, self._feed, self._metrics, pid, sequence, now, gpus)
        self._sentinel.beat()
        self._publish(Stream.HEARTBEATS, body)
        self._shipper.pause()
        if now >= self._next_losses and self._feed.losses.news:
            self._next_losses = now + losses.EVERY
            self._keeper.write_losses()

    def _take_steps(self) -> None:
        """The steps that the output tells of: the first one always before any other, since the resume is
        proven by it. (A successor of an agent that died reads the whole output once more.)"""
        tracker = self._feed.tracker
        with self._feed.lock:
            first, step, kind = tracker.first_step, tracker.step, tracker.kind
        if first is None or step is None or kind is None:
            return
        state, now = self._engine.state, self._clock.monotonic()
        if state.first_step is None:
            if kind < Kind.ITERATION and state.restored_step is not None and first < state.restored_step:
                return  # a bar that begins anew with each epoch is no proof of a restart from the beginning
            self._sentinel.first_step()
            self._take(inputs.StepSeen(at=now, step=first))
        if step != self._engine.state.last_step:
            self._take(inputs.StepSeen(at=now, step=step))

    def _publish(self, stream: Stream, body: Body) -> None:
        """Beside the numbered events: whether it arrives matters to nobody."""
        message = new_id("msg")
        data = encode(
            body,
            id=message,
            run=self._boot.spec.run,
            attempt=self._boot.attempt,
            agent=self._boot.agent,
            sent=self._clock.now(),
        )
        self._bus.publish(Address(stream, self._boot.agent, type(body).__name__), data, message_id=message)

    def _send_output(self, offset: int, data: bytes) -> None:
        self._publish(Stream.EVENTS, OutputSeen(offset=offset, data=data))

    def _training_over(self, code: int | None, signal: str | None) -> None:
        self._take_steps()
        detail, lines = "", self._training.last_lines()
        if signal is not None or code:
            how = f"signal {signal}" if signal is not None else f"exit code {code}"
            detail = ": ".join(part for part in (how, "".join(lines[-1:])[:300]) if part)
        traces = self._sentinel.traces(lines)
        now = self._clock.monotonic()
        self._take(inputs.TrainingExited(at=now, exit_code=code, signal=signal, detail=detail, traces=traces))


def _log(error: Exception) -> None:
    """An outage in one line; a mistake of ours with all that helps to find it."""
    log.error("agent.failed: %s", error, exc_info=None if isinstance(error, OSError) else error)
