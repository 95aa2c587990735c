"""The embedded bus as callers see it."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime

from runctl_shared.bus.embedded.engine import Engine
from runctl_shared.bus.embedded.session import Session
from runctl_shared.bus.embedded.store import Message
from runctl_shared.bus.embedded.subscription import Subscription, checked
from runctl_shared.bus.port import (
    Address,
    Bus,
    BusError,
    DeadLetter,
    Delivery,
    Handler,
    RequestTimedOut,
    Stream,
)
from runctl_shared.clock import Clock
from runctl_shared.draw import new_id

HEARTBEAT_SECONDS = 60.0
"""How long an unread heartbeat is kept."""
_CONTROLLERS = (Stream.EVENTS.value, Stream.HEARTBEATS.value, Stream.REQUESTS.value)


class EmbeddedBus:
    """A connection to the bus in the file at `path`, which is made (mode 600) if need be. See `port.Bus`."""

    def __init__(self, path: str, *, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._agents: set[str] = set()  # guarded by the lock
        # Another lock, since this one is held while the engine's thread works.
        self._asking = threading.Lock()
        self._replies: Subscription | None = None
        self._asked: dict[str, Future[bytes]] = {}
        self._engine = Engine(path, clock, self)

    def publish(
        self, to: Address, body: bytes, *, message_id: str, expires: float | None = None
    ) -> Future[None]:
        sender = "" if to.stream is Stream.COMMANDS else to.agent
        expires_at = None if expires is None else self._clock.now() + expires
        message = Message(to.stream.value, sender, to.topic, message_id, checked(body), expires_at)
        future: Future[None] = Future()
        if to.stream is Stream.HEARTBEATS:
            beat = message._replace(expires_at=expires_at or self._clock.now() + HEARTBEAT_SECONDS)
            self._engine.post(lambda session: session.store.put_heartbeat(beat))
            future.set_result(None)
        elif to.stream is Stream.FEED:
            self._engine.post(lambda session: session.store.put_feed(message))
            future.set_result(None)
        elif to.stream is Stream.COMMANDS:
            order = message._replace(queue=_queue(to))
            self._engine.post(lambda session: session.store.put_command(to.agent, order), future)
        elif to.stream is Stream.EVENTS:
            self._engine.post(lambda session: session.store.put_event(message), future)
        else:
            self._engine.post(lambda session: session.store.put(message), future)
        return future

    def subscribe(self, source: Address, handler: Handler, *, prefetch: int = 100) -> Subscription:
        private = source.stream is Stream.FEED
        subscription = Subscription(self._engine, _queue(source), handler, prefetch, private=private)
        self._engine.listen(subscription)
        return subscription

    def request(self, body: bytes, *, timeout: float) -> bytes:
        self._engine.mailbox.check()
        replies = self._listen_for_replies()
        question = Message("requests", "", "", new_id("ask"), checked(body), self._clock.now() + timeout)
        answer = self._asked[question.message_id] = Future()

        def stored(sent: Future[None]) -> None:
            problem = sent.exception()
            if problem is not None and not answer.done():
                answer.set_exception(problem)

        sent: Future[None] = Future()
        sent.add_done_callback(stored)
        try:
            self._engine.post(
                lambda session: session.store.put(question._replace(reply_to=replies.queue)), sent
            )
            return answer.result(timeout)
        except NotInTime:
            raise RequestTimedOut(
                f"The controller did not answer within {timeout:g} seconds.",
                "It may still act on the request: look before you ask again.",
            ) from None
        finally:
            del self._asked[question.message_id]

    def declare_controller(self, *, alone: bool = False) -> None:
        """The tables are there once the file can be opened, and whoever opens it makes them."""
        self._engine.call(lambda session: session.put_others_out(_CONTROLLERS) if alone else None)

    def declare_agent(self, agent: str) -> None:
        with self._lock:
            self._agents.add(agent)
        self._engine.call(lambda session: session.store.add_agent(agent))

    def remove_agent(self, agent: str) -> None:
        with self._lock:
            self._agents.discard(agent)
        self._engine.call(lambda session: session.store.remove_agent(agent))

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        def look(session: Session) -> list[DeadLetter]:
            session.store.expire(self._clock.now())
            return session.store.dead_letters(limit)

        found: list[DeadLetter] = self._engine.call(look)
        return found

    def wait_connected(self, timeout: float) -> bool:
        self._engine.mailbox.check()
        return self._engine.connected.wait(timeout)

    def close(self, timeout: float = 5.0) -> None:
        self._engine.close(timeout)

    # ------------------------------------------------------------ the engine's thread

    def opened(self, session: Session) -> None:
        with self._lock:
            agents = sorted(self._agents)
        for agent in agents:
            session.store.add_agent(agent)

    def lost(self, problem: BusError) -> None:
        for answer in list(self._asked.values()):
            if not answer.done():
                answer.set_exception(problem)

    def _answered(self, reply: Delivery) -> None:
        reply.ack()
        answer = self._asked.get(reply.message_id)
        if answer is not None and not answer.done():
            answer.set_result(reply.body)

    # ------------------------------------------------------------ inside

    def _listen_for_replies(self) -> Subscription:
        with self._asking:
            if self._replies is None:
                replies = Subscription(self._engine, "reply", self._answered, 100, private=True)
                self._engine.listen(replies)
                self._replies = replies
            return self._replies


def _queue(address: Address) -> str:
    return f"commands.{address.agent}" if address.stream is Stream.COMMANDS else address.stream.value


def _is_a_bus(bus: EmbeddedBus) -> Bus:
    return bus  # for the type checker alone
