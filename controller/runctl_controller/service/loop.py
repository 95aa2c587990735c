"""The controller's one thread: takes what the edges put into the inbox, and drives the core.

A delivery is settled only after the transaction that took it into account.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Mapping
from functools import partial

from runctl_controller.core import effects, inputs
from runctl_controller.core.model import Record
from runctl_controller.service.engine import Engine, Outcome
from runctl_controller.service.executor import TryLater
from runctl_controller.service.feed import Feed
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.outbox import Job, Outbox
from runctl_controller.store.port import Beat, Store, Superseded
from runctl_shared.bus.port import Address, Bus, Delivery, Stream
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.errors import RunctlError
from runctl_shared.ids import attempt_of
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Malformed, Message, decode, encode
from runctl_shared.messages.events import Heartbeat, OutputSeen

log = logging.getLogger("runctl.loop")
SWEEP = 1.0
"""Seconds between looks at who is silent and writes of the heartbeats that came meanwhile."""
MOST_COUNTED = 1000
"""Different things that are counted: who sends unknown fields chooses their names."""
DEAF = 3.0
"""Seconds between two sweeps after which this process must have stood still: whom it did not hear meanwhile
may well have spoken."""
_AGENT, _MACHINE = "agent:", "machine:"
_AT_ONCE = 1000
"""Outbox entries that are handed on before the inbox is looked at again."""
JUMP = 10.0
"""If the two clocks come apart by so many seconds, the clock was set or the machine slept."""


class Loop:
    def __init__(
        self,
        engine: Engine,
        store: Store,
        bus: Bus,
        clock: Clock,
        hearing: Hearing,
        carry_out: Callable[..., inputs.Input | None],
        changed: Callable[[Record], None] = lambda record: None,
        renew: Callable[[], None] = lambda: None,
        renew_every: float = 3.0,
    ) -> None:
        """`renew` shows that this controller is well, every `renew_every` seconds."""
        self._changed, self._renew, self._renew_every = changed, renew, renew_every
        self._engine, self._store, self._bus, self._clock = engine, store, bus, clock
        self.hearing = hearing
        self.feed = Feed(bus, store, hearing, clock)
        self.counts: dict[str, int] = {}
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._carry_out = carry_out
        self._outbox = Outbox(self._as_owner, self._job_done, clock, pools=(_AGENT,))
        self._pumped = 0
        # What the store said of timers and the outbox holds until the next decision: a heartbeat, which is
        # none, costs no transaction. See `Engine.decisions`.
        self._timer: float | None = None
        self._timer_as_of = self._pumped_as_of = -1
        self._stopping = False
        self.superseded: Superseded | None = None
        """By whom; then nothing may be done any more."""
        self._offset = clock.now() - clock.monotonic()
        self._swept = self._renewed = self._awake = clock.monotonic()
        self._slept = False

    # -- from any thread ----------------------------------------------------------------------

    def put(self, act: Callable[[], None]) -> None:
        """Have `act` called by the loop's thread."""
        self._inbox.put(act)

    def on_event(self, delivery: Delivery) -> None:
        self.put(lambda: self._event(delivery))

    def on_heartbeat(self, delivery: Delivery) -> None:
        self.put(lambda: self._heartbeat(delivery))

    def stop(self) -> None:
        def end() -> None:
            self._stopping = True

        self.put(end)

    def _job_done(self, job: Job, outcome: inputs.Input | None) -> None:
        self.put(lambda: self._settle(job, outcome))

    # -- the loop's thread --------------------------------------------------------------------

    def run(self, idle: Callable[[], bool] = lambda: False) -> None:
        """Until `stop`, or until `idle()` says that nothing is left to do."""
        self._guarded(self.wake)
        while not self._stopping:
            try:
                act = self._inbox.get(timeout=self._wait())
            except queue.Empty:
                pass
            else:
                self._guarded(act)
            self._guarded(self._housekeeping)
            if self._is_idle(idle):
                break
        self._outbox.close()
        self._guarded(self._save_beats)

    def _as_owner(self, record: Record, effect: effects.Effect) -> inputs.Input | None:
        """Carry out an effect, unless another controller has taken over while this one slept. (Called from
        the outbox's workers.)"""
        try:
            with self._store.transaction():
                pass
        except Superseded as error:
            self.put(partial(self._give_way, error))
            raise TryLater("it is for another controller to do") from error
        return self._carry_out(record, effect)

    def _settle(self, job: Job, outcome: inputs.Input | None) -> None:
        """Take the outcome of a job into account, which is over only then."""
        run = job.record.run.id
        try:
            if outcome is None:
                with self._store.transaction() as tx:
                    tx.done(job.outgoing)
                return
            told = self._engine.handle(run, outcome, job.outgoing)
        except Exception:
            self._outbox.again(job)
            raise
        self._publish(run, told)

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Superseded as error:
            self._give_way(error)
        except RunctlError as error:
            log.error("input.failed %s", error)
        except Exception:  # one bad input must not end the controller
            log.exception("input.failed")

    def _give_way(self, error: Superseded) -> None:
        self.superseded = self.superseded or error
        self._stopping = True

    def _is_idle(self, idle: Callable[[], bool]) -> bool:
        try:
            return idle()
        except RunctlError:
            return False

    def _wait(self) -> float:
        try:
            timer = self._next_timer()
        except RunctlError:
            return SWEEP  # the next housekeeping says what is wrong; here is only time to pass
        until_sweep = self._swept + SWEEP - self._clock.monotonic()
        until_timer = until_sweep if timer is None else timer - self._clock.now()
        return max(0.0, min(until_sweep, until_timer))

    def _next_timer(self) -> float | None:
        decisions = self._engine.decisions
        if decisions != self._timer_as_of:
            self._timer, self._timer_as_of = self._engine.next_timer(), decisions
        return self._timer

    def show_well(self) -> None:
        """Whoever stands by must see it also while there is much to do at once, or it takes over. And what
        takes long because it is much must not look as if we had slept. Raises Superseded when somebody has
        taken over."""
        now = self._clock.monotonic()
        self._slept = self._slept or now - self._awake > JUMP
        self._awake = now
        if now - self._renewed >= self._renew_every:
            self._renewed = now
            self._renew()

    def wake(self) -> None:
        """After a start, or a jump of the clock."""
        self.hearing.give_time(self._clock.monotonic())
        for run, outcome in self._engine.wake(self._clock.now()):
            self._publish(run, outcome)
            self.show_well()
        self._pump()

    def _housekeeping(self) -> None:
        self.show_well()
        now, mono = self._clock.now(), self._clock.monotonic()
        if abs(now - mono - self._offset) > JUMP or self._slept:
            jump = now - mono - self._offset
            log.warning("clock.jumped seconds=%.0f", jump)
            if jump < 0:
                self._engine.clock_was_set(jump)
            self._offset, self._swept, self._slept = now - mono, mono, False
            self.wake()
        timer = self._next_timer()
        if timer is not None and timer <= now:
            for run, outcome in self._engine.fire_due(now):
                self._publish(run, outcome)
                self.show_well()
        if mono - self._swept >= SWEEP:
            if mono - self._swept > DEAF:
                self.hearing.give_time(mono)
            self._swept = mono
            self._sweep(now, mono)
            self._pump()
        elif self._engine.decisions != self._pumped_as_of:
            self._pump()

    def _sweep(self, now: float, mono: float) -> None:
        self._save_beats()
        if not self._listening():
            # Who cannot hear must not call others silent.
            self.hearing.give_time(mono)
            return
        for agent, silence in self.hearing.gone_silent(mono):
            given = inputs.WentSilent(at=now, agent=agent, heard_at=now - silence)
            self._publish_for(agent, self._engine.heard(agent, given))
            self.hearing.recorded(agent, silent=True)

    def _listening(self) -> bool:
        try:
            return self._bus.wait_connected(0.0)
        except RunctlError:
            return False

    def _save_beats(self) -> None:
        beats = self.hearing.take_fresh()
        if beats:
            with self._store.transaction() as tx:
                tx.save_beats(beats)

    def _pump(self) -> None:
        """Hand new outbox entries to the workers."""
        decisions = self._engine.decisions
        with self._store.transaction() as tx:
            items = tx.outgoing(after=self._pumped, limit=_AT_ONCE)
            records = {item.run: tx.load(item.run) for item in items}
        for item in items:
            self._pumped = max(self._pumped, item.id)
            record = records[item.run]
            if record is not None:
                lane = _lane(item.run, item.effect)
                self._outbox.add(Job(outgoing=item.id, lane=lane, record=record, effect=item.effect))
        if len(items) < _AT_ONCE:
            self._pumped_as_of = decisions

    def _event(self, delivery: Delivery) -> None:
        message = self._decoded(delivery)
        if message is None:
            return
        if isinstance(message.body, OutputSeen):
            self.feed.output(delivery.sender, message.body)
        elif message.envelope.sequence > 0:
            given = inputs.Heard(
                at=self._clock.now(),
                agent=delivery.sender,
                sequence=message.envelope.sequence,
                body=message.body,
                sent=message.envelope.sent,
            )
            try:
                outcome = self._engine.heard(delivery.sender, given)
            except Exception:
                # Not settled, it would take up a place at the bus for ever.
                delivery.requeue()
                raise
            delivery.ack()
            self._heard(delivery.sender)
            self._publish_for(delivery.sender, outcome)
            return
        delivery.ack()

    def _heartbeat(self, delivery: Delivery) -> None:
        message = self._decoded(delivery)
        if message is None:
            return
        delivery.ack()  # only the newest matters, so none is worth a second look
        if isinstance(message.body, Heartbeat):
            beat = Beat(agent=delivery.sender, at=self._clock.now(), body=message.body)
            self._heard(delivery.sender, beat)
            self.feed.beat(beat)

    def _heard(self, agent: str, beat: Beat | None = None) -> None:
        if self.hearing.heard(agent, self._clock.monotonic(), beat):
            given = inputs.HeardAgain(at=self._clock.now(), agent=agent)
            self._publish_for(agent, self._engine.heard(agent, given))
            self.hearing.recorded(agent, silent=False)

    def _decoded(self, delivery: Delivery) -> Message[Body] | None:
        """The message; None for one that was put aside. Unknown fields and kinds are counted."""
        try:
            message = decode(delivery.body)
        except Malformed as error:
            self._count("malformed")
            delivery.dead_letter(f"malformed: {error}")
            return None
        for name in message.unknown_fields:
            self._count(f"unknown field {message.envelope.kind}.{name}")
        return message

    def _count(self, what: str) -> None:
        if what in self.counts or len(self.counts) < MOST_COUNTED:
            self.counts[what] = self.counts.get(what, 0) + 1

    # -- after a commit -----------------------------------------------------------------------

    def request(self, name: str, given: inputs.Requested) -> Outcome:
        """For the requests' handler, on the loop's thread."""
        outcome = self._engine.request(name, given)
        self._publish(outcome.decision.record.run.id, outcome)
        return outcome

    def take_in(self, record: Record, given: inputs.Imported, *, whole: bool) -> bool:
        """Put an imported run on record, on the loop's thread. Whether it was not there."""
        outcome = self._engine.take_in(record, given, whole=whole)
        self._publish(record.run.id, outcome)
        return outcome is not None

    def _publish_for(self, agent: str, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        self._publish(outcome.decision.record.run.id, outcome)
        if outcome.decision.answer is not None:
            self.tell_agent(outcome.decision.record.run.id, agent, outcome.decision.answer)

    def _publish(self, run: str, outcome: Outcome | None) -> None:
        if outcome is not None:
            self.feed.changed(outcome)
            record = outcome.decision.record
            self._changed(record)
            if any(isinstance(e, effects.CALLS) for e in outcome.decision.effects):
                self._pump()
            self._expect(
                record.run.id, {a.agent: a.number for a in record.attempts if a.open and a.events_through}
            )

    def _expect(self, run: str, agents: Mapping[str, int]) -> None:
        self.hearing.expect_of(run, agents, self._clock.monotonic())

    def tell_agent(self, run: str, agent: str, body: Body) -> None:
        """A command that needs no record: if it is lost, the agent asks by sending its events again."""
        command = new_id("cmd")
        data = encode(
            body, id=command, run=run, attempt=attempt_of(agent), agent=agent, sent=self._clock.now()
        )
        to = Address(Stream.COMMANDS, agent, type(body).__name__)
        self._bus.publish(to, data, message_id=command, expires=60.0)


def _lane(run: str, effect: effects.Effect) -> str:
    """What must be done in order is done in one lane: commands of an agent, calls about its machine. Two
    lanes, so that a broker that is down never keeps a machine from being ended."""
    if isinstance(effect, (effects.SendCommand, effects.ForgetAgent)):
        return _AGENT + effect.agent
    machine = getattr(effect, "machine", None)
    return f"{_MACHINE}{machine}" if machine is not None else run
