"""A message as the broker delivered it, and the ways to settle it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

from runctl_shared.bus.amqp.names import plain_word, spoken, text
from runctl_shared.bus.port import MAX_BODY, BusRefused, Stream

if TYPE_CHECKING:
    from pika import BasicProperties
    from pika.channel import Channel
    from pika.spec import Basic

log = logging.getLogger("runctl.bus")

REPLY_TO = "amq.rabbitmq.reply-to"
"""The broker's own pseudo-queue for replies: nothing to declare, nothing left behind. The receiver sees this
and the asker's token."""

_settling = threading.Lock()
"""One for all: it is held for the turn of a flag."""


class Outlet(Protocol):
    """What a delivery needs of its bus."""

    def post(self, task: Callable[[], None]) -> bool: ...
    def put_aside(self, delivery: AmqpDelivery, reason: str) -> Future[None]:
        """Publish a copy to the dead letters; done when the broker has it."""
        ...

    def send_reply(self, reply_to: str, request_id: str, body: bytes) -> None: ...


class AmqpDelivery:
    """Settled through the very channel that brought it: when that is closed, the broker has taken the message
    back, and settling does nothing. See `bus.port.Delivery` for what the methods promise."""

    __slots__ = (
        "_channel",
        "_method",
        "_outlet",
        "_properties",
        "_settled",
        "body",
        "sender",
        "stream",
        "topic",
    )

    def __init__(
        self,
        outlet: Outlet,
        stream: Stream,
        channel: Channel,
        method: Basic.Deliver,
        properties: BasicProperties,
        body: bytes,
    ) -> None:
        self._outlet = outlet
        self._channel = channel
        self._method = method
        self._properties = properties
        self._settled = False
        self.stream = stream
        self.body = body
        self.sender, topic = spoken(stream, method.routing_key)
        self.topic = topic if topic is not None else plain_word(properties.type)

    @property
    def message_id(self) -> str:
        return text(self._properties.message_id)

    @property
    def redelivered(self) -> bool:
        return bool(self._method.redelivered)

    def ack(self) -> None:
        if self._first():
            self._outlet.post(self._ack)

    def requeue(self) -> None:
        if self._first():
            self._outlet.post(lambda: self._reject(requeue=True))

    def dead_letter(self, reason: str) -> None:
        if self._first() and self._channel.is_open:
            self._outlet.put_aside(self, reason).add_done_callback(self._put_aside)

    def reply(self, body: bytes) -> None:
        if len(body) > MAX_BODY:
            raise ValueError(f"a reply of {len(body)} bytes is larger than {MAX_BODY}")
        # Nowhere else: a client could name another's queue, and we may write to all of them.
        reply_to = text(self._properties.reply_to)
        if reply_to.startswith(REPLY_TO + "."):
            self._outlet.send_reply(reply_to, text(self._properties.correlation_id), body)

    def _first(self) -> bool:
        with _settling:
            first, self._settled = not self._settled, True
        return first

    def _put_aside(self, copy: Future[None]) -> None:
        """The original goes only after its copy is safe."""
        error = copy.exception()
        if error is None:
            self._outlet.post(self._ack)
        elif isinstance(error, BusRefused):
            # A confined agent may not write there. The broker can: it puts it aside without our words.
            log.warning("bus.dead_letter_without_reason id=%r", self.message_id)
            self._outlet.post(lambda: self._reject(requeue=False))
        else:
            self._outlet.post(lambda: self._reject(requeue=True))

    def _ack(self) -> None:
        if self._channel.is_open:
            self._channel.basic_ack(self._method.delivery_tag)

    def _reject(self, *, requeue: bool) -> None:
        # Not nack: from 4.3 on, a nack does not count towards the delivery limit.
        if self._channel.is_open:
            self._channel.basic_reject(self._method.delivery_tag, requeue=requeue)
