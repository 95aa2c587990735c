"""Events to the controller: in order, again and again, until it has acknowledged them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

from runctl_agent.spool.port import Spool
from runctl_shared.bus.port import Address, Bus, Stream

log = logging.getLogger("runctl.outlet")
WINDOW = 200
"""Events under way at most: sent and not acknowledged."""
PATIENCE, LONGEST_PATIENCE = 20.0, 600.0
"""Seconds without any acknowledgement after which everything unacknowledged is sent again: at first, and at
most. They double each time: while no controller runs, the bus keeps what it has confirmed."""
RETRY = 2.0
"""Seconds to wait after the bus has failed to confirm; and between two times that the same is sent again,
for each event of a full window may be answered by a request to do so."""


class Outlet:
    """One thread's (the loop's); only `failed` is called from the bus's, and only puts something in there."""

    def __init__(self, bus: Bus, spool: Spool, agent: str, failed: Callable[[int], None]) -> None:
        self._bus, self._spool, self._agent = bus, spool, agent
        self._failed = failed
        # After a restart of the agent, the events before the first that is left have been acknowledged.
        first = spool.pending(limit=1)
        self._acked = self._sent = first[0].sequence - 1 if first else spool.last_sequence
        self._moved = 0.0
        self._patience = PATIENCE
        self._not_before = 0.0
        self._again_from = 0.0

    def pump(self, now: float) -> None:
        """Send what is due (`now`: monotonic seconds)."""
        if now < self._not_before:
            return
        if self._sent > self._acked and now >= self._moved + self._patience and not self._spool.empty:
            self._sent, self._moved = self._acked, now
            self._patience = min(LONGEST_PATIENCE, 2 * self._patience)
        room = WINDOW - (self._sent - self._acked)
        for event in self._spool.pending(self._sent, max(0, room)):
            if self._sent == self._acked:
                self._moved = now
            self._sent = event.sequence
            confirmed = self._bus.publish(
                Address(Stream.EVENTS, self._agent, event.kind),
                event.data,
                message_id=f"{self._agent}-{event.sequence}",
            )
            confirmed.add_done_callback(self._watch(event.sequence))

    def _watch(self, sequence: int) -> Callable[[Future[None]], None]:
        def done(confirmed: Future[None]) -> None:
            if not confirmed.cancelled() and confirmed.exception() is not None:
                log.info("event.unconfirmed sequence=%d: %s", sequence, confirmed.exception())
                self._failed(sequence)

        return done

    def again(self, after: int, now: float, wait: float = 0.0) -> None:
        """Send everything after `after` once more, in `wait` seconds; never again and again at once."""
        if max(after, self._acked) >= self._sent:
            return
        self._sent = max(after, self._acked)
        start = max(now + wait, self._again_from)
        self._not_before = max(self._not_before, start)
        self._again_from = start + RETRY

    def forget(self, through: int, now: float) -> None:
        """The controller has committed these: only now may they be deleted."""
        self._spool.forget(through)
        self._acked = max(self._acked, min(through, self._spool.last_sequence))
        self._sent = max(self._sent, self._acked)
        self._moved, self._patience = now, PATIENCE

    def due(self, now: float) -> float | None:
        """When `pump` should be called again though nothing happens; None when there is nothing to send."""
        if self._spool.empty:
            return None
        more = self._sent < self._spool.last_sequence and self._sent - self._acked < WINDOW
        return max(self._not_before, now if more else self._moved + self._patience)
