"""A subscription: a channel of its own, placed again whenever it is lost.

Each has its own channel because a channel dies of the first error: an agent's queue that is gone must not
stop the consumer next to it. It also makes settling safe, see `delivery`.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Protocol

from pika.exceptions import ChannelClosedByBroker

from runctl_shared.bus.amqp import topology, trouble
from runctl_shared.bus.amqp.backoff import Backoff
from runctl_shared.bus.amqp.delivery import AmqpDelivery, Outlet
from runctl_shared.bus.amqp.link import Link, Task
from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.port import MAX_BODY, Address, BusError, Handler, Stream

if TYPE_CHECKING:
    from pika import BasicProperties
    from pika.channel import Channel
    from pika.frame import Method
    from pika.spec import Basic

log = logging.getLogger("runctl.bus")

CLOSE_TIMEOUT = 5.0


class Place(Outlet, Protocol):
    """What a consumer needs of its bus."""

    def restore(self, then: Task) -> None:
        """Make anew what we declare and somebody else may have deleted, then do `then`, come what may."""
        ...


class Consumer:
    """See `bus.port.Subscription`."""

    def __init__(
        self, link: Link, outlet: Place, names: Names, source: Address, handler: Handler, prefetch: int
    ) -> None:
        self._link = link
        self._outlet = outlet
        self._names = names
        self._source = source
        self._queue = names.queue(source)
        self._handler = handler
        self._prefetch = prefetch
        # Without a queue yet, nobody tells us when it comes: it is asked for again, every few seconds.
        self._backoff = Backoff(base=0.2, cap=5.0)

        self.settled = threading.Event()  # placed, or known not to be placeable now
        self._closed = False
        self._gone = threading.Event()
        # Touched on the link's thread only:
        self._channel: Channel | None = None
        self._told = ""

    # ---- from any thread

    def close(self) -> None:
        self._closed = True
        if self._link.post(self._leave) and not self._link.on_thread:
            self._gone.wait(CLOSE_TIMEOUT)

    @property
    def is_closed(self) -> bool:
        return self._closed

    # ---- on the link's thread

    def place(self) -> None:
        """Start consuming on the present connection."""
        if self._closed or self._channel is not None:
            return
        self._channel = self._link.open_channel(self._opened)
        if self._channel is not None:
            self._channel.add_on_close_callback(self._on_channel_closed)
        elif self._link.connection is not None:
            self._again()

    def lost(self) -> None:
        """The connection is gone, or could not be made."""
        self._channel = None
        self.settled.set()

    def _opened(self, channel: Channel) -> None:
        if self._closed:
            channel.close()
            return
        channel.add_on_cancel_callback(lambda _frame: self._cancelled(channel))
        channel.basic_qos(prefetch_count=self._prefetch)
        if self._source.stream is Stream.FEED:
            # Durable or exclusive is all that RabbitMQ 4.3 allows. Named by the server, because a name of
            # ours would stay locked for half a minute after a cut.
            channel.queue_declare(
                "",
                exclusive=True,
                arguments=topology.feed(),
                callback=lambda frame: self._bind(channel, frame),
            )
        else:
            self._consume(channel, self._queue)

    def _bind(self, channel: Channel, declared: Method) -> None:
        queue = declared.method.queue
        channel.queue_bind(
            queue, self._names.of(Stream.FEED), "#", callback=lambda _frame: self._consume(channel, queue)
        )

    def _consume(self, channel: Channel, queue: str) -> None:
        channel.basic_consume(queue, self._deliver, callback=self._placed)

    def _placed(self, _frame: Method) -> None:
        log.info("bus.consuming stream=%s agent=%s", self._source.stream.value, self._source.agent)
        self._backoff.reset()
        self._told = ""
        self.settled.set()

    def _deliver(
        self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        if self._closed:
            return  # it goes back with the channel
        if len(body) > MAX_BODY:
            log.warning("bus.too_large stream=%s key=%r", self._source.stream.value, method.routing_key)
            channel.basic_reject(method.delivery_tag, requeue=False)
            return
        delivery = AmqpDelivery(self._outlet, self._source.stream, channel, method, properties, body)
        try:
            self._handler(delivery)
        except Exception:
            log.exception("bus.handler_broke stream=%s id=%r", self._source.stream.value, delivery.message_id)
            delivery.requeue()

    def _cancelled(self, channel: Channel) -> None:
        """The broker ended the consumer: its queue was deleted, or has no leader. (Of a quorum queue that is
        deleted and made again within milliseconds, RabbitMQ tells nobody: names of agents are not reused.)"""
        log.warning("bus.cancelled stream=%s agent=%s", self._source.stream.value, self._source.agent)
        if channel.is_open:
            channel.close()

    def _on_channel_closed(self, _channel: Channel, reason: Exception) -> None:
        self._channel = None
        self.settled.set()
        if self._closed:
            self._gone.set()
        elif self._link.connection is not None:
            if isinstance(reason, ChannelClosedByBroker):
                self._tell(trouble.of_channel(reason, self._link.target))
            self._again()

    def _tell(self, error: BusError) -> None:
        level = logging.DEBUG if str(error) == self._told else logging.WARNING
        self._told = str(error)
        source = self._source
        log.log(
            level, "bus.not_consuming stream=%s agent=%s reason=%s", source.stream.value, source.agent, error
        )

    def _again(self) -> None:
        self._link.call_later(self._backoff.next(), lambda: self._outlet.restore(self.place))

    def _leave(self) -> None:
        if self._channel is None or self._channel.is_closed:
            self._gone.set()
        elif self._channel.is_open:  # if it is opening, `_opened` closes it
            self._channel.close()
