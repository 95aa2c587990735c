"""The bus over RabbitMQ: the parts put together behind the port."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TYPE_CHECKING, TypeVar

import pika

from runctl_shared.bus.amqp import dead, topology, trouble
from runctl_shared.bus.amqp.confirms import Outgoing, Publisher
from runctl_shared.bus.amqp.consumer import Consumer
from runctl_shared.bus.amqp.delivery import AmqpDelivery
from runctl_shared.bus.amqp.link import Link, Task
from runctl_shared.bus.amqp.names import Names, Route
from runctl_shared.bus.amqp.requests import Requester
from runctl_shared.bus.amqp.target import parse
from runctl_shared.bus.port import (
    MAX_BODY,
    Address,
    BusError,
    BusRefused,
    BusUnavailable,
    DeadLetter,
    Handler,
    Stream,
    Subscription,
)
from runctl_shared.clock import Clock, SystemClock

if TYPE_CHECKING:
    from pika.channel import Channel

log = logging.getLogger("runctl.bus")

_T = TypeVar("_T")
_Work = Callable[["Channel", "Future[_T]"], None]

OPERATION_TIMEOUT = 10.0
"""Seconds that declaring, removing and looking may take, and a first connection that they wait for."""
REMADE_AFTER = 1.0
"""Seconds until an agent's queue that somebody has deleted is made again: of a quorum queue that is deleted
and made within milliseconds, RabbitMQ 3.10 does not tell the consumer, who would be deaf for ever."""
_LONGEST_ID = 255


class AmqpBus:
    """See `bus.port.Bus` for what each method promises.

    Publishing while the link is down: the message waits a few seconds for it (`confirms.HOLD`), then its
    future fails with BusUnavailable; with BusRefused at once when the broker has refused us. `wait_connected`
    raises BusRefused too, so that a person is told instead of waiting; trying goes on, slowly.
    Declaring, removing and `dead_letters` raise BusUnavailable at once while the link is known to be down.
    """

    def __init__(self, url: str, *, clock: Clock | None = None, name: str = "runctl") -> None:
        """Begin to connect to `url` (see `target.parse`); `name` shows in the broker's list of connections.

        Raises UsageError for a URL that cannot be used, and nothing for a broker that cannot be reached."""
        clock = clock or SystemClock()
        target = parse(url)
        self._names = Names(target.prefix)
        self._link = Link(target, clock, name or "runctl")
        self._publisher = Publisher(self._link, clock)
        self._requester = Requester(self._link, clock, self._names)

        # Guarded by _lock:
        self._lock = threading.Lock()
        self._closed = False
        self._controller = False
        self._agents: set[str] = set()
        self._consumers: list[Consumer] = []

        # Touched on the link's thread only:
        self._remade: set[str] = set()

        self._publisher.homeless = self._on_homeless
        self._link.opened = self._on_opened
        self._link.lost = self._on_lost
        self._link.tick = self._publisher.tick
        self._link.over = self._on_over
        self._link.start()

    # ---- messages

    def publish(
        self, to: Address, body: bytes, *, message_id: str, expires: float | None = None
    ) -> Future[None]:
        self._require_open()
        _check(body, message_id)
        route = self._names.route(to)
        properties = pika.BasicProperties(
            message_id=message_id,
            type=to.topic,
            delivery_mode=2 if route.confirmed else 1,
            expiration=None if expires is None else str(max(0, int(expires * 1000))),
        )
        return self._publisher.send(Outgoing(route, body, properties))

    def subscribe(self, source: Address, handler: Handler, *, prefetch: int = 100) -> Subscription:
        self._require_open()
        consumer = Consumer(self._link, self, self._names, source, handler, prefetch)
        with self._lock:
            self._consumers = [one for one in self._consumers if not one.is_closed]
            self._consumers.append(consumer)
        self._link.post(lambda: self._place(consumer))
        if not self._link.on_thread:
            consumer.settled.wait(OPERATION_TIMEOUT)
        return consumer

    def request(self, body: bytes, *, timeout: float) -> bytes:
        self._require_open()
        _check(body, "")
        self._require_other_thread()
        return self._requester.ask(body, timeout)

    # ---- what stands at the broker

    def declare_controller(self, *, alone: bool = False) -> None:
        # `alone` is the broker's own business: it drops a connection that it has not heard for two
        # heartbeats.
        with self._lock:
            self._controller = True
        try:
            self._declare(topology.controller(self._names))
        except BusRefused:
            with self._lock:
                self._controller = False
            raise

    def declare_agent(self, agent: str) -> None:
        declarations = topology.agent(self._names, agent)
        with self._lock:
            self._agents.add(agent)
        try:
            self._declare(declarations)
        except BusRefused:
            with self._lock:
                self._agents.discard(agent)
            raise

    def remove_agent(self, agent: str) -> None:
        queue = self._names.command_queue(agent)
        with self._lock:
            self._agents.discard(agent)
        self._on_channel(_deleting(queue))

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        return self._on_channel(dead.Look(self._names, limit).work)

    # ---- the link

    def wait_connected(self, timeout: float) -> bool:
        self._require_open()
        return self._link.wait_up(timeout)

    def close(self, timeout: float = 5.0) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if not self._link.on_thread:
            self._publisher.flush(timeout)
        self._link.stop()

    # ---- what deliveries and consumers need (`delivery.Outlet`, `consumer.Place`)

    def post(self, task: Task) -> bool:
        return self._link.post(task)

    def put_aside(self, delivery: AmqpDelivery, reason: str) -> Future[None]:
        route, properties = dead.copy_of(delivery, reason, self._names)
        return self._publisher.send(Outgoing(route, delivery.body, properties))

    def send_reply(self, reply_to: str, request_id: str, body: bytes) -> None:
        properties = pika.BasicProperties(correlation_id=request_id, delivery_mode=1)
        self._publisher.send(Outgoing(Route("", reply_to, confirmed=False), body, properties))

    def restore(self, then: Task) -> None:
        with self._lock:
            ours = self._controller
        self._errand(topology.controller(self._names) if ours else [], then)

    # ---- on the link's thread

    def _on_homeless(self, route: Route) -> None:
        """An agent's queue that we declared is gone: nobody but us would make it again."""
        with self._lock:
            ours = route.exchange == self._names.of(Stream.COMMANDS) and route.key in self._agents
        if ours and route.key not in self._remade:
            self._remade.add(route.key)
            self._link.call_later(REMADE_AFTER, lambda: self._remake(route.key))

    def _remake(self, agent: str) -> None:
        with self._lock:
            ours = agent in self._agents
        log.warning("bus.queue_gone agent=%s", agent)
        self._errand(topology.agent(self._names, agent) if ours else [], lambda: self._remade.discard(agent))

    def _errand(self, declarations: Sequence[topology.Declaration], then: Task) -> None:
        """Declare these, then do `then`, come what may."""
        if not declarations:
            then()
            return
        done: Future[None] = Future()
        done.add_done_callback(lambda _done: then())
        _Errand(self._link, _declaring(declarations), done).start()

    def _on_opened(self) -> None:
        """First the channel to publish on, then what must stand, then everything else."""
        self._publisher.open(self._rebuild)

    def _rebuild(self) -> None:
        declarations = self._standing()
        if not declarations:
            self._on_ready()
            return
        done: Future[None] = Future()
        done.add_done_callback(self._rebuilt)
        _Errand(self._link, _declaring(declarations), done).start()

    def _rebuilt(self, done: Future[None]) -> None:
        error = done.exception()
        if error is None:
            self._on_ready()
        elif isinstance(error, BusError):
            self._link.give_up(error)

    def _on_ready(self) -> None:
        self._link.up()
        self._publisher.resume()
        self._requester.resume()
        for consumer in self._subscribed():
            consumer.place()

    def _on_lost(self, error: BusError) -> None:
        self._remade.clear()  # all is declared again on the next connection
        self._publisher.lost(error)
        self._requester.lost(error)
        for consumer in self._subscribed():
            consumer.lost()

    def _on_over(self) -> None:
        self._publisher.stop()
        self._requester.stop()

    def _place(self, consumer: Consumer) -> None:
        if self._link.is_up:
            consumer.place()
        elif self._link.trouble is not None:
            consumer.lost()

    # ---- inside

    def _standing(self) -> list[topology.Declaration]:
        with self._lock:
            agents = sorted(self._agents)
            standing = topology.controller(self._names) if self._controller else []
        return standing + [one for agent in agents for one in topology.agent(self._names, agent)]

    def _subscribed(self) -> list[Consumer]:
        with self._lock:
            return list(self._consumers)

    def _declare(self, declarations: Sequence[topology.Declaration]) -> None:
        self._on_channel(_declaring(declarations))

    def _on_channel(self, work: _Work[_T]) -> _T:
        """Do `work` on a channel of its own and wait for its result."""
        self._require_open()
        self._require_other_thread()
        self._link.require_up(OPERATION_TIMEOUT)
        result: Future[_T] = Future()
        if not self._link.post(_Errand(self._link, work, result).start):
            raise trouble.lost()
        try:
            return result.result(OPERATION_TIMEOUT)
        except FutureTimeout:
            raise BusUnavailable("The broker did not answer in time.", "Try it again.") from None

    def _require_open(self) -> None:
        if self._closed:
            raise BusError("The bus was closed.")

    def _require_other_thread(self) -> None:
        if self._link.on_thread:
            raise BusError("A handler of the bus must not wait for the bus.", "Do it in another thread.")


class _Errand:
    """Something short on a channel of its own, so that its failure closes nobody else's."""

    def __init__(self, link: Link, work: _Work[_T], result: Future[_T]) -> None:
        self._link = link
        self._work = work
        self._result = result

    def start(self) -> None:
        channel = self._link.open_channel(lambda channel: self._work(channel, self._result))
        if channel is None:
            self._result.set_exception(self._link.why_down())
            return
        channel.add_on_close_callback(self._closed)
        self._result.add_done_callback(lambda _result: channel.close() if channel.is_open else None)

    def _closed(self, _channel: Channel, reason: Exception) -> None:
        if not self._result.done():
            self._result.set_exception(trouble.of_channel(reason, self._link.target))


def _declaring(declarations: Sequence[topology.Declaration]) -> _Work[None]:
    return lambda channel, done: topology.declare(channel, declarations, lambda: done.set_result(None))


def _deleting(queue: str) -> _Work[None]:
    return lambda channel, done: channel.queue_delete(queue, callback=lambda _frame: done.set_result(None))


def _check(body: bytes, message_id: str) -> None:
    if len(body) > MAX_BODY:
        raise ValueError(f"a message of {len(body)} bytes is larger than {MAX_BODY}")
    if len(message_id.encode()) > _LONGEST_ID:
        raise ValueError(f"a message id is at most {_LONGEST_ID} bytes long")
