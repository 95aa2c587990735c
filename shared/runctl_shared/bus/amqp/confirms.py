"""Publishing: what waits for the link, and what waits for the broker's word.

This is no outbox. Callers own durable ones; here a message waits for the link for a few seconds, or for its
confirmation a little longer, and then its future says that it is not known to have arrived.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

from runctl_shared.bus.amqp import trouble
from runctl_shared.bus.amqp.backoff import Backoff
from runctl_shared.bus.amqp.link import Link, Task
from runctl_shared.bus.amqp.names import Route
from runctl_shared.bus.port import BusError, BusRefused, BusUnavailable, Unroutable
from runctl_shared.clock import Clock

if TYPE_CHECKING:
    from pika import BasicProperties
    from pika.channel import Channel
    from pika.frame import Method
    from pika.spec import Basic

log = logging.getLogger("runctl.bus")

HOLD = 5.0
"""Seconds that a message waits for the link before its future fails."""
CONFIRM_DEADLINE = 30.0
"""Seconds that a sent message waits for its confirmation."""
MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 << 20


class Outgoing:
    """A message on its way. Its future is done exactly once."""

    __slots__ = ("body", "deadline", "future", "properties", "returned", "route")

    def __init__(self, route: Route, body: bytes, properties: BasicProperties) -> None:
        self.route = route
        self.body = body
        self.properties = properties
        self.future: Future[None] = Future()
        self.future.set_running_or_notify_cancel()  # a caller's cancel() must not make our set_result raise
        self.deadline = 0.0
        self.returned = False


class Publisher:
    """The publishing channel, and the map of what it has not confirmed yet."""

    def __init__(self, link: Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._backoff = Backoff(base=0.1, cap=5.0)
        self.homeless: Callable[[Route], None] = lambda _route: None
        """Called on the link's thread with the way of a message that no queue took."""

        # Guarded by _room: confirmed messages whose future is not done.
        self._room = threading.Condition()
        self._waiting = 0
        self._waiting_bytes = 0

        # Touched on the link's thread only:
        self._channel: Channel | None = None
        self._tag = 0
        self._held: deque[Outgoing] = deque()
        self._unconfirmed: dict[int, Outgoing] = {}

    # ---- from any thread

    def send(self, message: Outgoing) -> Future[None]:
        if not message.route.confirmed:
            message.future.set_result(None)
            self._link.post(partial(self._accept, message))
        elif not self._admit(message):
            self._finish(message, BusUnavailable("Too many messages wait for the broker.", "Send it later."))
        elif not self._link.post(partial(self._accept, message)):
            self._finish(message, trouble.lost())
        return message.future

    def flush(self, timeout: float) -> bool:
        """Wait until nothing waits for a confirmation, or the link is down. True when nothing does."""
        with self._room:
            self._room.wait_for(lambda: self._waiting == 0 or not self._link.is_up, timeout)
            return self._waiting == 0

    # ---- on the link's thread

    def open(self, ready: Task) -> None:
        """Open the channel; `ready` is called when messages can be sent."""
        channel = self._link.open_channel(partial(self._opened, ready))
        if channel is None:
            self._link.give_up(
                BusUnavailable("The broker has no channel left for us.", "Raise its channel_max.")
            )
        else:
            channel.add_on_close_callback(self._closed)

    def resume(self) -> None:
        """All is in place: send what was held."""
        while self._held and self._channel is not None:
            self._emit(self._held.popleft())

    def lost(self, error: BusError) -> None:
        """The connection is gone; its channel's end came first. Held messages stay, unless it is hopeless."""
        self._channel = None
        if isinstance(error, BusRefused):
            self._fail_held(error)
        with self._room:
            self._room.notify_all()

    def stop(self) -> None:
        """No link will come any more."""
        self._channel = None
        self._fail_held(trouble.lost())

    def tick(self) -> None:
        """Fail what is overdue. Both maps are in order of their deadlines."""
        now = self._clock.monotonic()
        while self._held and self._held[0].deadline <= now:
            self._finish(self._held.popleft(), self._link.why_down())
        overdue = takewhile(lambda one: one[1].deadline <= now, self._unconfirmed.items())
        for tag, message in list(overdue):
            del self._unconfirmed[tag]
            self._finish(message, trouble.late(CONFIRM_DEADLINE))

    # ---- inside

    def _admit(self, message: Outgoing) -> bool:
        with self._room:
            self._waiting += 1
            self._waiting_bytes += len(message.body)
            return self._waiting <= MOST_WAITING and self._waiting_bytes <= MOST_WAITING_BYTES

    def _accept(self, message: Outgoing) -> None:
        if self._channel is not None and self._link.is_up and not self._held:
            self._emit(message)
        elif not message.route.confirmed:
            return  # nobody misses it
        elif isinstance(self._link.trouble, BusRefused):
            self._finish(message, self._link.why_down())
        else:
            message.deadline = self._clock.monotonic() + HOLD
            self._held.append(message)

    def _emit(self, message: Outgoing) -> None:
        assert self._channel is not None  # noqa: S101 -- both callers have just looked
        route = message.route
        try:
            self._channel.basic_publish(
                route.exchange, route.key, message.body, message.properties, mandatory=route.confirmed
            )
        except Exception as error:
            log.warning("bus.not_sent exchange=%s reason=%r", route.exchange, error)
            if route.confirmed:
                self._finish(message, trouble.lost())
            return
        self._tag += 1  # the broker counts every message on a confirming channel
        if route.confirmed:
            message.deadline = self._clock.monotonic() + CONFIRM_DEADLINE
            self._unconfirmed[self._tag] = message

    def _opened(self, ready: Task, channel: Channel) -> None:
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._confirmed, callback=lambda _frame: self._ready(channel, ready))

    def _ready(self, channel: Channel, ready: Task) -> None:
        self._channel = channel
        self._tag = 0
        ready()

    def _returned(
        self, _channel: Channel, _method: Basic.Return, properties: BasicProperties, _body: bytes
    ) -> None:
        """The broker found no queue for it; its confirmation follows, and is worth nothing."""
        for message in self._unconfirmed.values():
            if message.properties.message_id == properties.message_id and not message.returned:
                message.returned = True
                return

    def _confirmed(self, frame: Method) -> None:
        told = frame.method
        taken = told.NAME == "Basic.Ack"
        tags = [told.delivery_tag]
        if told.multiple:
            tags = list(takewhile(lambda tag: tag <= told.delivery_tag, self._unconfirmed))
        for tag in tags:
            message = self._unconfirmed.pop(tag, None)
            if message is None:
                continue  # a heartbeat, or overdue
            if message.returned:
                self.homeless(message.route)
                self._finish(message, _homeless(message.route))
            else:
                self._finish(message, None if taken else trouble.rejected())
        self._backoff.reset()

    def _closed(self, _channel: Channel, reason: Exception) -> None:
        was_ready, self._channel = self._channel is not None, None
        error = trouble.of_channel(reason, self._link.target)
        unconfirmed, self._unconfirmed = self._unconfirmed, {}
        for message in unconfirmed.values():
            # The broker does not say which message it minds, but names the exchange.
            minded = isinstance(error, BusUnavailable) or f"'{message.route.exchange}'" in error.what
            self._finish(message, error if minded else trouble.lost())
        if self._link.connection is None:
            return
        if was_ready:
            log.warning("bus.publishing_stopped reason=%s", error)
            self._link.call_later(self._backoff.next(), lambda: self.open(self.resume))
        else:
            self._link.give_up(error)

    def _fail_held(self, error: BusError) -> None:
        while self._held:
            self._finish(self._held.popleft(), error)

    def _finish(self, message: Outgoing, error: BusError | None) -> None:
        with self._room:
            self._waiting -= 1
            self._waiting_bytes -= len(message.body)
            if self._waiting == 0:
                self._room.notify_all()
        if error is None:
            message.future.set_result(None)
        else:
            message.future.set_exception(trouble.again(error))


def _homeless(route: Route) -> BusError:
    if route.exchange.endswith(".commands"):
        return Unroutable(f"No queue takes commands for {route.key}.", "Declare the agent first.")
    return BusUnavailable(
        f"Nothing takes messages for {route.exchange} at the broker.",
        "Start the controller, which sets it up.",
    )
