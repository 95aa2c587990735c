"""Subscriptions and deliveries of the embedded bus: settled from any thread, the rest is the engine's."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from runctl_shared.bus.embedded.session import Session
from runctl_shared.bus.embedded.store import Message, Row
from runctl_shared.bus.port import MAX_BODY, Handler

if TYPE_CHECKING:
    from runctl_shared.bus.embedded.engine import Engine

log = logging.getLogger("runctl.bus")

_serial = itertools.count()


def checked(body: bytes) -> bytes:
    """`body`. Raises ValueError when no bus may carry it."""
    if len(body) > MAX_BODY:
        raise ValueError(f"a message of {len(body)} bytes; the largest allowed is {MAX_BODY}")
    return bytes(body)


class Subscription:
    """Takes messages out of `queue`; out of one of its own, ``<queue>.<consumer>``, where `private`."""

    def __init__(
        self, engine: Engine, queue: str, handler: Handler, prefetch: int, *, private: bool = False
    ) -> None:
        self._engine = engine
        self._name = queue
        self._private = private
        self._handler = handler
        self._prefetch = max(1, prefetch)
        self._closed = False
        self.queue = queue
        self.consumer = ""
        """Its name while it is in place."""
        # By serial number; who takes one out settles it. Never by the message's id: the same message may be
        # delivered twice, and settling the first delivery must not settle the second.
        self._unsettled: dict[int, Held] = {}

    def close(self) -> None:
        self._closed = True
        self._engine.unlisten(self)

    # ------------------------------------------------------------ the engine's thread, inside a transaction

    def place(self, session: Session) -> None:
        """Make sure that it is in place."""
        if not self.consumer:
            self.consumer = session.new_consumer()
            self.queue = f"{self._name}.{self.consumer}" if self._private else self._name
            session.store.add_consumer(self.consumer, session.link, self.queue)

    def displace(self, session: Session) -> None:
        consumer, self.consumer = self.consumer, ""
        session.store.drop_consumer(consumer)

    def take(self, session: Session) -> list[Held]:
        """What has arrived, as far as there is room."""
        room = self._prefetch - len(self._unsettled)
        if room <= 0:
            return []
        rows = session.store.take(self.consumer, self.queue, room)
        taken = [Held(self._engine, self.consumer, row, self._unsettled) for row in rows]
        self._unsettled.update((held.serial, held) for held in taken)
        return taken

    # ------------------------------------------------------------ the engine's thread, afterwards

    def lost(self) -> None:
        """The connection is gone; whatever was delivered through it is in other hands by now."""
        self.consumer = ""
        self._unsettled.clear()

    def hand_out(self, held: Held) -> None:
        if self._closed:
            return
        try:
            self._handler(held)
        except Exception:
            log.exception("bus.handler_failed queue=%s", self.queue)


class Held:
    """A message in the hands of a consumer."""

    def __init__(self, engine: Engine, consumer: str, row: Row, unsettled: dict[int, Held]) -> None:
        self.serial = next(_serial)
        self._engine = engine
        self._consumer = consumer
        self._row = row
        self._unsettled = unsettled

    @property
    def body(self) -> bytes:
        return self._row.body

    @property
    def sender(self) -> str:
        return self._row.sender

    @property
    def topic(self) -> str:
        return self._row.topic

    @property
    def message_id(self) -> str:
        return self._row.message_id

    @property
    def redelivered(self) -> bool:
        return self._row.deliveries > 1

    def ack(self) -> None:
        self._settle(lambda session: session.store.ack(self._consumer, self._row.id))

    def dead_letter(self, reason: str) -> None:
        words = reason.encode(errors="replace").decode()
        self._settle(lambda session: session.store.put_aside(self._consumer, self._row.id, words))

    def requeue(self) -> None:
        self._settle(lambda session: session.store.give_back(self._consumer, self._row.id))

    def reply(self, body: bytes) -> None:
        # The id of a reply is that of its request.
        reply = Message(self._row.reply_to, "", "", self._row.message_id, checked(body))
        if reply.queue:
            self._engine.settle(lambda session: session.store.put_reply(reply))

    def _settle(self, run: Callable[[Session], None]) -> None:
        if self._unsettled.pop(self.serial, None) is not None:
            self._engine.settle(run)
