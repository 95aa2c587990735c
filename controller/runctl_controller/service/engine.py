"""One input, one transaction: load, decide, store, queue. The only place where the core meets the store.

Everything in here is called by one thread. Whatever a decision wants done lies in the outbox when the
transaction is over; a crash at any point loses nothing and does nothing twice that must not be done twice.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import msgspec

from runctl_controller.core.decide import Decision, decide
from runctl_controller.core.effects import CALLS, CancelTimer, Deposit, Effect, RemoveRecord, SetTimer, Tell
from runctl_controller.core.inputs import Imported, Input, Requested, TimerFired, Woke, World
from runctl_controller.core.ledger import by_use
from runctl_controller.core.model import Record, Run
from runctl_controller.core.requests import new_record
from runctl_controller.service.naming import named
from runctl_controller.store.port import DueTimer, Forgotten, Store, Told, Transaction
from runctl_shared.errors import RefusedByGuard, StoreUnusable
from runctl_shared.messages.requests import SubmitRun

log = logging.getLogger("runctl.engine")
MOST_WAITING = 100_000
"""Outbox entries that are looked through for those of one run."""
PUT_OFF = 60.0
"""Seconds by which a timer that could not be acted on is put off."""


class Outcome(msgspec.Struct, frozen=True):
    """What a decision came to, for the edges: whom to answer, what to publish."""

    decision: Decision
    told: tuple[Told, ...]


class Engine:
    """`decisions` counts what was decided, or tried: while it stands still, timers and the outbox do too."""

    def __init__(self, store: Store, world: World) -> None:
        self._store = store
        self._world = world
        self.decisions = 0

    def handle(self, run: str, given: Input, outgoing: int | None = None) -> Outcome | None:
        """Act on `given`; `outgoing` is the outbox entry whose outcome it is. None: no such run."""
        with self._store.transaction() as tx:
            record = tx.load(run)
            if record is None:
                if outgoing is not None:
                    tx.done(outgoing)
                return None
            outcome = self._decide(tx, record, given)
            if outgoing is not None:
                tx.done(outgoing)
        return outcome

    def heard(self, agent: str, given: Input) -> Outcome | None:
        """An event of `agent`. None: nobody knows this agent (so nothing is acknowledged)."""
        with self._store.transaction() as tx:
            run = tx.run_of_agent(agent)
            record = tx.load(run) if run is not None else None
            return self._decide(tx, record, given) if record is not None else None

    def request(self, name: str, given: Requested) -> Outcome:
        """Carry out a client's request about the run of that name or id. Raises RunctlError when refused."""
        with self._store.transaction() as tx:
            record = self._submitted(tx, given) or named(tx, name)
            return self._decide(tx, record, given)

    def take_in(self, record: Record, given: Imported, *, whole: bool) -> Outcome | None:
        """Put a run that was imported on record, and look after it. None: it is there already. `whole`: its
        ledger comes along, so that what is remembered of its costs (if it was forgotten) counts no more."""
        with self._store.transaction() as tx:
            run = record.run.id
            if tx.load(run) is not None:
                return None
            if whole:
                tx.recall(run)
            tx.save(record)
            return self._decide(tx, record, given)

    def _submitted(self, tx: Transaction, given: Requested) -> Record | None:
        """The record of a run that is submitted now; the known one when it is submitted again."""
        body = given.body
        if not isinstance(body, SubmitRun):
            return None
        known = tx.load(body.spec.run)
        if known is not None:
            return known
        other = tx.run_id(body.spec.name)
        taken = tx.load(other) if other is not None else None
        if taken is not None and taken.busy:
            raise RefusedByGuard(
                f"A run named {body.spec.name!r} is still {taken.run.state.value}.",
                f"Choose another --name, or end it with `runctl stop {body.spec.name}`.",
            )
        return new_record(body, given.at)

    def _decide(self, tx: Transaction, record: Record, given: Input) -> Outcome:
        self.decisions += 1
        decision = decide(record, given, self._world)
        if decision.record is not record or tx.load(record.run.id) is None:
            tx.save(decision.record)
        told = _store_effects(tx, record.run, decision.effects)
        for effect in decision.effects:
            if isinstance(effect, RemoveRecord):
                _remove(tx, decision.record, given.at, effect.actor)
        return Outcome(decision, told)

    def next_timer(self) -> float | None:
        """When the next timer is due, UTC seconds."""
        with self._store.transaction() as tx:
            return tx.next_timer()

    def fire_due(self, now: float) -> Iterator[tuple[str, Outcome]]:
        """Act on every timer that is due, each in a transaction of its own that also removes it. One that
        fails is put off: it must not keep the others from being acted on."""
        self.decisions += 1
        while True:
            try:
                with self._store.transaction() as tx:
                    due = tx.take_due(now, 1)
                    fired = [(timer.run, self._fire(tx, timer, now)) for timer in due]
            except StoreUnusable:
                raise
            except Exception:
                log.exception("timer.failed")
                with self._store.transaction() as tx:
                    for timer in tx.take_due(now, 1):
                        tx.set_timer(timer.run, timer.key, now + PUT_OFF)
                continue
            if not due:
                return
            yield from ((run, outcome) for run, outcome in fired if outcome is not None)

    def _fire(self, tx: Transaction, timer: DueTimer, now: float) -> Outcome | None:
        record = tx.load(timer.run)
        return None if record is None else self._decide(tx, record, TimerFired(at=now, key=timer.key))

    def wake(self, now: float) -> Iterator[tuple[str, Outcome]]:
        """After a start or a jump of the clock: look at every machine before judging any silence."""
        with self._store.transaction() as tx:
            busy = tx.busy()
        for run in busy:
            try:
                outcome = self.handle(run, Woke(at=now))
            except StoreUnusable:
                raise
            except Exception:  # one run that cannot be woken must not keep the others asleep
                log.exception("wake.failed run=%s", run)
            else:
                if outcome is not None:
                    yield run, outcome

    def clock_was_set(self, seconds: float) -> None:
        """Timers are times of day: set back with the clock, they would come as much too late."""
        self.decisions += 1
        with self._store.transaction() as tx:
            tx.shift_timers(seconds)


def _store_effects(tx: Transaction, of: Run, effects: Sequence[Effect]) -> tuple[Told, ...]:
    run, told = of.id, []
    for effect in effects:
        if isinstance(effect, SetTimer):
            tx.set_timer(run, effect.key, effect.at)
        elif isinstance(effect, CancelTimer):
            tx.cancel_timer(run, effect.key)
        elif isinstance(effect, Tell):
            told.append(Told(number=tx.tell(run, effect), run=run, name=of.spec.name, item=effect))
    tx.queue(run, [effect for effect in effects if isinstance(effect, CALLS)])
    return tuple(told)


def check_settled(tx: Transaction, of: Run) -> None:
    """Raise RefusedByGuard while anything is left to do for the run. (But for its copy in its checkpoint
    store: that is put nowhere once the run is deleted there.)"""
    waiting = tx.outgoing(limit=MOST_WAITING)
    if any(item.run == of.id and not isinstance(item.effect, Deposit) for item in waiting):
        raise RefusedByGuard(f"{of.spec.name} is still being cleaned up after.", "Try again in a moment.")


def _remove(tx: Transaction, record: Record, at: float, actor: str) -> None:
    """Off the record, but for what it cost. Raises RefusedByGuard while anything is left to do for it."""
    run = record.run
    check_settled(tx, run)
    uses = by_use(record.intervals, at)
    before = tx.recall(run.id)  # forgotten once already, and imported without its ledger
    for use, (seconds, paid) in ({} if before is None else before.uses).items():
        known = uses.get(use, (0.0, 0.0))
        uses[use] = (known[0] + seconds, known[1] + paid)
    tx.remove(
        Forgotten(
            run=run.id,
            name=run.spec.name,
            project=run.spec.project,
            created_at=run.created_at,
            removed_at=at,
            by=actor,
            uses=uses,
        )
    )
