"""The controller's process: the real engine and hearing, a loop and an outbox that can die at any point."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from runctl_controller.core import effects, inputs
from runctl_controller.core.model import Record
from runctl_controller.providers.port import LaunchOrder
from runctl_controller.service.engine import Engine, Outcome
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.outbox import Job
from runctl_controller.store.memory import MemoryStore
from runctl_controller.store.port import Superseded, superseded
from runctl_shared.checkpoints.objects import ObjectStoreError
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.errors import ProviderFailed
from runctl_shared.messages.base import Body
from runctl_shared.messages.events import AttemptEnded
from runctl_testing.sim.facts import Broken, require
from runctl_testing.sim.scenario import INSTALLATION

if TYPE_CHECKING:
    from runctl_testing.sim.wire import Event
    from runctl_testing.sim.world import World

FIRST_WAIT = 1.0


class Crash(Exception):
    """The process ends here."""


class TryLater(Exception):
    """The effect stays in the outbox."""


class SimController:
    """One process. Whatever it wants to do it does in `act`: there it can crash, sleep, or find itself
    superseded."""

    def __init__(self, world: World, number: int) -> None:
        self.world, self.line = world, world.line
        self.name = f"controller {number}"
        self.store = MemoryStore(world.disk, INSTALLATION)
        self.epoch = self.store.take_over().epoch
        self.engine = Engine(self.store, world.config)
        self.hearing = Hearing(world.config.heartbeat)
        self.alive = True
        self.asleep = False
        self._backlog: list[Callable[[], None]] = []
        self._lanes: dict[str, deque[Job]] = {}
        self._pumped = 0
        self._armed = 0.0
        self._freezes: Callable[[], None] | None = None
        self._frozen: Callable[[], None] | None = None

    def begin(self) -> None:
        self.line.note(self.name, f"starts, epoch {self.epoch}")
        self.act(self.wake)
        self.line.after(self.world.config.heartbeat, self._sweep)

    @property
    def now(self) -> float:
        """What the wall clock says."""
        return self.line.now + self.world.clock_offset

    # -- the loop -----------------------------------------------------------------------------

    def act(self, what: Callable[[], None]) -> None:
        if not self.alive:
            return
        if self.asleep:
            self._backlog.append(what)
            return
        tables = self.world.disk.tables
        try:
            what()
            self._fire()
            current = self.epoch == self.world.disk.leadership.epoch
            require(current or self.world.disk.tables is tables, f"{self.name} writes, and is not in charge")
        except Superseded:
            self.die("is superseded")
        except Crash:
            self.die("CRASHES")
            self.world.restart_controller()
        else:
            self._arm()

    def die(self, how: str) -> None:
        if self.alive:
            self.line.note(self.name, how)
            self.alive = False
            self.world.controller_died(self)

    def sleep(self) -> None:
        self.asleep = True

    def sleep_in_a_call(self, asleep: Callable[[], None]) -> None:
        """Fall asleep at the worst moment: it has seen that it leads, and is about to act. `asleep` is called
        when that has happened."""
        self._freezes = asleep

    def awake(self) -> None:
        """Go on after a sleep: the loop finds its clocks far from where they were."""
        if self.alive and self.asleep:
            self.asleep = False
            if self._frozen is not None:
                call, self._frozen = self._frozen, None
                self.act(call)
            backlog, self._backlog = self._backlog, []
            self.act(self.wake)
            for what in backlog:
                self.act(what)

    def wake(self) -> None:
        self.hearing.give_time(self.line.now)
        for run, outcome in self.engine.wake(self.now):
            self._publish(run, outcome)
        self._pump()

    def _maybe_crash(self, where: str) -> None:
        if self.world.chance("crash_controller"):
            self.line.note(self.name, f"at: {where}")
            raise Crash

    def _fire(self) -> None:
        if self._next_timer() <= self.now:
            for run, outcome in self.engine.fire_due(self.now):
                self.world.facts.inputs += 1
                self._publish(run, outcome)

    def _next_timer(self) -> float:
        return min(self.world.disk.tables.timers.values(), default=float("inf"))

    def _arm(self) -> None:
        due = self._next_timer()
        if due != self._armed and due != float("inf"):
            self._armed = due
            self.line.at(due - self.world.clock_offset, lambda: self.act(lambda: None))

    def clock_jumped(self) -> None:
        self._armed = 0.0
        self.act(self.wake)

    def _sweep(self) -> None:
        if self.alive:
            self.line.after(self.world.config.heartbeat, self._sweep)
            if not self.asleep:
                self.act(self._judge_silence)

    def _judge_silence(self) -> None:
        for agent, silence in sorted(self.hearing.gone_silent(self.line.now)):
            given = inputs.WentSilent(at=self.now, agent=agent, heard_at=self.now - silence)
            self._publish_for(agent, self.engine.heard(agent, given))
            self.hearing.recorded(agent, silent=True)

    # -- deliveries ---------------------------------------------------------------------------

    def on_event(self, event: Event) -> None:
        self.act(lambda: self._event(event))

    def on_heartbeat(self, agent: str) -> None:
        if not self.asleep:
            self.act(lambda: self._heard(agent))

    def _event(self, event: Event) -> None:
        self._maybe_crash("before the transaction")
        self.line.note(self.name, event)
        given = inputs.Heard(at=self.now, agent=event.agent, sequence=event.sequence, body=event.body)
        outcome = self.engine.heard(event.agent, given)
        self.world.facts.heard(event, outcome)
        self._maybe_crash("after the commit")
        self._heard(event.agent)
        self._publish_for(event.agent, outcome)
        self._maybe_crash("before the bus knows")
        self.world.wire.acknowledge(event.tag)

    def _heard(self, agent: str) -> None:
        if self.hearing.heard(agent, self.line.now):
            given = inputs.HeardAgain(at=self.now, agent=agent)
            self._publish_for(agent, self.engine.heard(agent, given))
            self.hearing.recorded(agent, silent=False)

    def request(self, name: str, body: Body) -> None:
        """Raises RunctlError when refused."""
        outcome = self.engine.request(name, inputs.Requested(at=self.now, actor="user:sim", body=body))
        self._publish(outcome.decision.record.run.id, outcome)
        self._fire()
        self._arm()

    # -- after a commit -----------------------------------------------------------------------

    def _publish_for(self, agent: str, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        self._publish(outcome.decision.record.run.id, outcome)
        if outcome.decision.answer is not None:
            body = outcome.decision.answer
            self.line.note(self.name, body)
            if self.world.wire.up:
                self.world.wire.send_command(agent, self.world.fresh("cmd"), body, 60.0)

    def _publish(self, run: str, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        self.world.facts.inputs += 1
        for effect in outcome.decision.effects:
            self.line.note(self.name, effect)
        if any(isinstance(e, effects.CALLS) for e in outcome.decision.effects):
            self._pump()
        record = outcome.decision.record
        expected = [a.agent for a in record.attempts if a.open and a.events_through]
        self.hearing.expect_of(run, expected, self.line.now)

    # -- the outbox ---------------------------------------------------------------------------

    def _pump(self) -> None:
        with self.store.transaction() as tx:
            items = tx.outgoing(after=self._pumped)
            records = {item.run: tx.load(item.run) for item in items}
        for item in items:
            self._pumped = max(self._pumped, item.id)
            record = records[item.run]
            if record is not None:
                effect = item.effect
                lane = str(getattr(effect, "agent", "") or getattr(effect, "machine", "") or item.run)
                self._add(Job(outgoing=item.id, lane=lane, record=record, effect=effect))

    def _add(self, job: Job) -> None:
        lane = self._lanes.get(job.lane)
        if lane is not None:
            lane.append(job)
            return
        self._lanes[job.lane] = deque([job])
        self.line.after(self.world.rng.uniform(0.0, 0.2), lambda: self._work(job.lane, FIRST_WAIT))

    def _work(self, name: str, wait: float) -> None:
        self.act(lambda: self._try(name, wait))

    def _try(self, name: str, wait: float) -> None:
        if self.world.disk.leadership.epoch != self.epoch:
            raise superseded(self.world.disk.leadership)
        self._maybe_crash("before a call")
        job = self._lanes[name][0]
        if self._freezes is not None:
            asleep, self._freezes = self._freezes, None
            self._frozen = lambda: self._call(name, wait, job)
            self.sleep()
            asleep()
            return
        self._call(name, wait, job)

    def _call(self, name: str, wait: float, job: Job) -> None:
        """Nothing is looked at any more before it is done; only its outcome can still be refused."""
        self.world.caller = self
        try:
            outcome = _HOW[type(job.effect)](self, job.record, job.effect)
        except TryLater:
            self.line.after(wait, lambda: self._work(name, min(30.0, wait * 2)))
            return
        self._maybe_crash("after a call")
        if outcome is None:
            self._finish(name, job, None)
            return
        slow = self.world.chance("slow")
        answer_in = self.world.rng.uniform(1.0, 20.0) if slow else self.world.rng.uniform(0.05, 1.0)
        self.line.after(answer_in, lambda: self.act(lambda: self._finish(name, job, outcome)))

    def _finish(self, name: str, job: Job, outcome: inputs.Input | None) -> None:
        run = job.record.run.id
        if outcome is None:
            with self.store.transaction() as tx:
                tx.done(job.outgoing)
        else:
            self.line.note(self.name, outcome)
            self._publish(run, self.engine.handle(run, outcome, job.outgoing))
        self._maybe_crash("in the middle of the outbox")
        lane = self._lanes[name]
        lane.popleft()
        if lane:
            self.line.after(0.0, lambda: self._work(name, FIRST_WAIT))
        else:
            del self._lanes[name]

    # -- effects ------------------------------------------------------------------------------

    def _order(self, record: Record, name: str) -> LaunchOrder:
        machine = record.machine(name)
        if machine is None:
            raise Broken(f"{name} is to be launched or asked about, and is not on record")
        return machine.order

    def _send(self, record: Record, effect: effects.SendCommand) -> None:
        if not self.world.wire.up:
            raise TryLater
        self.world.wire.send_command(effect.agent, effect.id, effect.body, effect.expires)

    def _launch(self, record: Record, effect: effects.Launch) -> inputs.Input:
        if not self.world.wire.up:
            raise TryLater
        self.world.wire.declare(effect.machine)
        at, machine = self.now, effect.machine
        try:
            sighting = self.world.cloud.launch(self._order(record, machine))
        except ProviderFailed as error:
            return inputs.LaunchAnswered(at=at, machine=machine, error=error.code, detail=str(error))
        return inputs.LaunchAnswered(at=at, machine=machine, sighting=sighting)

    def _terminate(self, record: Record, effect: effects.Terminate) -> inputs.Input:
        at, machine = self.now, effect.machine
        try:
            self.world.cloud.terminate(self._order(record, machine))
        except ProviderFailed as error:
            return inputs.TerminateAnswered(at=at, machine=machine, error=error.code, detail=str(error))
        return inputs.TerminateAnswered(at=at, machine=machine)

    def _interrupt(self, record: Record, effect: effects.Interrupt) -> inputs.Input:
        machine = self.world.cloud.machines.get(self._order(record, effect.machine).token)
        if machine is not None:
            self.world.cloud.interrupt(machine, effect.notice)
        return inputs.InterruptAnswered(at=self.now, machine=effect.machine)

    def _look(self, record: Record, effect: effects.Look) -> inputs.Input:
        at, machine = self.now, effect.machine
        try:
            sighting = self.world.cloud.describe(self._order(record, machine))
        except ProviderFailed as error:
            return inputs.Seen(at=at, machine=machine, sighting=None, detail=str(error))
        return inputs.Seen(at=at, machine=machine, sighting=sighting)

    def _read_end(self, record: Record, effect: effects.ReadEnd) -> inputs.Input:
        at, attempt = self.now, effect.attempt
        try:
            data = RunRepository(self.world.vault, record.run.id).read_end(attempt)
        except ObjectStoreError as error:
            return inputs.EndRead(at=at, attempt=attempt, error=str(error))
        found = None if data is None else msgspec.json.decode(data, type=AttemptEnded)
        return inputs.EndRead(at=at, attempt=attempt, record=found)

    def _read_commits(self, record: Record, effect: effects.ReadCommits) -> inputs.Input:
        at, attempt = self.now, effect.attempt
        try:
            names = RunRepository(self.world.vault, record.run.id).manifests()
        except ObjectStoreError as error:
            return inputs.CommitsRead(at=at, attempt=attempt, error=str(error))
        own = [parts.name for parts in names if parts.attempt == attempt]
        return inputs.CommitsRead(at=at, attempt=attempt, newest=max(own, default=None))

    def _deposit(self, record: Record, effect: effects.Deposit) -> None:
        """A copy that nothing here reads: no run of this world is ever imported."""

    def _forget(self, record: Record, effect: effects.ForgetAgent) -> None:
        self.world.wire.remove(effect.agent)


_HOW: dict[type[effects.Effect], Callable[[SimController, Record, Any], inputs.Input | None]] = {
    effects.SendCommand: SimController._send,
    effects.Launch: SimController._launch,
    effects.Terminate: SimController._terminate,
    effects.Interrupt: SimController._interrupt,
    effects.Look: SimController._look,
    effects.ReadEnd: SimController._read_end,
    effects.ReadCommits: SimController._read_commits,
    effects.Deposit: SimController._deposit,
    effects.ForgetAgent: SimController._forget,
}
