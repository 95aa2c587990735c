"""What listeners are told: changes of runs always, output and heartbeats while somebody follows."""

from __future__ import annotations

from runctl_controller.core.model import Record
from runctl_controller.service.engine import Outcome
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.views import run_view, story_view
from runctl_controller.store.port import Beat, Store
from runctl_shared.bus.port import Address, Bus, Stream
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id
from runctl_shared.ids import attempt_of, run_of
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import encode
from runctl_shared.messages.events import OutputSeen
from runctl_shared.messages.replies import OutputRelayed, ProgressSeen, RunChanged, RunView


class Feed:
    """One thread's. Nothing on the feed is ever the only way to learn something."""

    def __init__(self, bus: Bus, store: Store, hearing: Hearing, clock: Clock) -> None:
        self._bus, self._store, self._hearing, self._clock = bus, store, hearing, clock
        self._followed: dict[str, float] = {}

    def follow(self, run: str, seconds: float) -> None:
        """Somebody wants this run's output and progress for so long."""
        now = self._clock.monotonic()
        self._followed = {other: until for other, until in self._followed.items() if until >= now}
        self._followed[run] = max(now + seconds, self._followed.get(run, 0.0))

    def view(self, record: Record) -> RunView:
        attempt = record.current
        beat = self._hearing.newest(attempt.agent) if attempt is not None else None
        return run_view(record, beat, self._clock.now())

    def changed(self, outcome: Outcome) -> None:
        if not outcome.told:
            return
        view = self.view(outcome.decision.record)
        for told in outcome.told:
            self._send(view.run, RunChanged(story=story_view(told.item, told.number), view=view))

    def beat(self, beat: Beat) -> None:
        # Its id tells the run: while nobody follows that one, a heartbeat costs no transaction.
        run = run_of(beat.agent)
        if not self._wanted(run):
            return
        with self._store.transaction() as tx:
            record = tx.load(run)
        if record is not None and record.by_agent(beat.agent) is not None:
            self._send(record.run.id, ProgressSeen(view=self.view(record)))

    def output(self, agent: str, body: OutputSeen) -> None:
        """Relay a piece of output; `agent` is known by the delivery, and with it the attempt."""
        run = run_of(agent)
        if not self._wanted(run):
            return
        with self._store.transaction() as tx:
            known = tx.run_of_agent(agent) == run
        if known:
            self._send(run, OutputRelayed(attempt=attempt_of(agent), offset=body.offset, data=body.data))

    def _wanted(self, run: str) -> bool:
        until = self._followed.get(run)
        if until is not None and until < self._clock.monotonic():
            del self._followed[run]
            return False
        return until is not None

    def _send(self, run: str, body: Body) -> None:
        message = new_id("feed")
        data = encode(body, id=message, run=run, sent=self._clock.now())
        self._bus.publish(Address(Stream.FEED, topic=type(body).__name__), data, message_id=message)
