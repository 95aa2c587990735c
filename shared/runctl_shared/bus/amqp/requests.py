"""Asking the controller: requests out, replies in through RabbitMQ's direct reply-to."""

from __future__ import annotations

import logging
import uuid
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from functools import partial
from typing import TYPE_CHECKING

import pika
from pika.exceptions import ChannelClosedByBroker

from runctl_shared.bus.amqp import trouble
from runctl_shared.bus.amqp.delivery import REPLY_TO
from runctl_shared.bus.amqp.link import Link
from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.port import Address, BusError, BusRefused, BusUnavailable, RequestTimedOut, Stream
from runctl_shared.clock import Clock

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.spec import Basic

log = logging.getLogger("runctl.bus")


class _Asked:
    __slots__ = ("answer", "body", "deadline", "id", "sent")

    def __init__(self, body: bytes, deadline: float) -> None:
        self.id = uuid.uuid4().hex
        self.body = body
        self.deadline = deadline
        self.sent = False
        self.answer: Future[bytes] = Future()


class Requester:
    """Requests under way, and the channel for them; opened for the first one, for few processes ask."""

    def __init__(self, link: Link, clock: Clock, names: Names) -> None:
        self._link = link
        self._clock = clock
        self._route = names.route(Address(Stream.REQUESTS))
        # Touched on the link's thread only:
        self._channel: Channel | None = None
        self._ready = False
        self._asked: dict[str, _Asked] = {}

    # ---- from any thread

    def ask(self, body: bytes, timeout: float) -> bytes:
        asked = _Asked(body, self._clock.monotonic() + timeout)
        if not self._link.post(partial(self._accept, asked)):
            raise trouble.lost()
        try:
            return asked.answer.result(timeout)
        except FutureTimeout:
            self._link.post(lambda: self._forget(asked))
            raise self._too_late(asked, timeout) from None

    def _too_late(self, asked: _Asked, timeout: float) -> BusError:
        if not asked.sent and not self._link.is_up:
            return self._link.why_down()
        return RequestTimedOut(
            f"The controller did not answer within {timeout:.0f} s.",
            "See whether it is running, and ask again.",
        )

    # ---- on the link's thread

    def resume(self) -> None:
        """All is in place on a new connection."""
        if self._asked:
            self._send_all()

    def lost(self, error: BusError) -> None:
        self._channel, self._ready = None, False
        for asked in list(self._asked.values()):
            if asked.sent:
                self._fail(asked, _unanswered())
            elif isinstance(error, BusRefused):
                self._fail(asked, error)

    def stop(self) -> None:
        for asked in list(self._asked.values()):
            self._fail(asked, trouble.lost())

    def _accept(self, asked: _Asked) -> None:
        if isinstance(self._link.trouble, BusRefused):
            asked.answer.set_exception(self._link.why_down())
            return
        self._asked[asked.id] = asked
        if self._link.is_up:
            self._send_all()

    def _send_all(self) -> None:
        if self._channel is None:
            self._channel = self._link.open_channel(self._opened)
            if self._channel is not None:
                self._channel.add_on_close_callback(self._closed)
        elif self._ready:
            for asked in self._asked.values():
                if not asked.sent:
                    self._send(self._channel, asked)

    def _opened(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._returned)
        channel.basic_consume(
            REPLY_TO, self._answered, auto_ack=True, callback=lambda _frame: self._consuming()
        )

    def _consuming(self) -> None:
        self._ready = True
        self._send_all()

    def _send(self, channel: Channel, asked: _Asked) -> None:
        left = asked.deadline - self._clock.monotonic()
        properties = pika.BasicProperties(
            message_id=asked.id,
            correlation_id=asked.id,
            reply_to=REPLY_TO,
            # Nobody waits for the answer any more: then nobody wants it done either.
            expiration=str(max(1, int(left * 1000))),
        )
        channel.basic_publish(self._route.exchange, self._route.key, asked.body, properties, mandatory=True)
        asked.sent = True

    def _answered(
        self, _channel: Channel, _method: Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        asked = self._asked.pop(properties.correlation_id or "", None)
        if asked is not None:
            asked.answer.set_result(body)

    def _returned(
        self, _channel: Channel, _method: Basic.Return, properties: pika.BasicProperties, _body: bytes
    ) -> None:
        asked = self._asked.get(properties.correlation_id or "")
        if asked is not None:
            self._fail(asked, _nobody())

    def _closed(self, _channel: Channel, reason: Exception) -> None:
        self._channel, self._ready = None, False
        if isinstance(reason, ChannelClosedByBroker):  # else the connection is gone, and `lost` comes next
            error = trouble.of_channel(reason, self._link.target)
            for asked in list(self._asked.values()):
                self._fail(asked, error)

    def _forget(self, asked: _Asked) -> None:
        self._asked.pop(asked.id, None)

    def _fail(self, asked: _Asked, error: BusError) -> None:
        self._forget(asked)
        asked.answer.set_exception(trouble.again(error))


def _unanswered() -> BusUnavailable:
    return BusUnavailable(
        "The link to the broker was lost before the controller's answer came.",
        "See what has happened, and ask again.",
    )


def _nobody() -> BusUnavailable:
    return BusUnavailable("No controller has set up this broker.", "Start the controller.")
