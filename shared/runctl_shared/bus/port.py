"""The bus: how agents, controller and clients reach each other.

One port, two implementations (``amqp`` for fleets, ``embedded`` for one machine); ``tests/contract``
holds both to what is written here.

Delivery is **at least once**. Within one destination, messages of one sender arrive in the order in which
they were published; a redelivered one may come again later. A confirmed publish means that the *bus* has
taken responsibility, not that anybody has acted on it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Protocol

import msgspec

from runctl_shared.errors import RunctlError

MAX_BODY = 1 << 20
"""Largest message body, in bytes. Larger ones are refused by `publish` with ValueError."""


class BusError(RunctlError):
    """Something went wrong on the bus. The caller keeps the message and tries again later."""

    code = "bus"


class BusUnavailable(BusError):
    """The bus cannot be reached now. It reconnects by itself; publish again later."""


class BusRefused(BusError):
    """The bus refuses us: wrong password, no permission. Only a person can mend that."""


class Unroutable(BusError):
    """Nothing takes messages for this address. Evidence of nothing about who should be listening."""


class RequestTimedOut(BusError):
    """No reply came in time. The request may or may not have been acted upon."""


class Stream(str, Enum):
    """Where a message goes. The names are those of the exchanges and queues at the broker."""

    EVENTS = "events"  # agent -> controller; durable, confirmed, in order per agent
    HEARTBEATS = "heartbeats"  # agent -> controller; only the newest matters; may be lost
    COMMANDS = "commands"  # controller -> one agent; durable, one queue per agent
    REQUESTS = "requests"  # client -> controller; expects a reply
    FEED = "feed"  # controller -> whoever listens now; lost when nobody does


class Address(msgspec.Struct, frozen=True):
    """A destination: a stream, and the agent meant (COMMANDS) or speaking (EVENTS, HEARTBEATS).

    `topic` is a single word: the kind of message, used in routing keys (``agent.<id>.<kind>``).
    """

    stream: Stream
    agent: str = ""
    topic: str = ""


class Delivery(Protocol):
    """One message as it was delivered. Settle it exactly once, from any thread.

    An unsettled delivery is handed out again (`redelivered` true) after its consumer has gone away.
    Settling twice, or after the link was lost, does nothing.
    """

    @property
    def body(self) -> bytes: ...
    @property
    def sender(self) -> str:
        """The agent that sent it, by the routing key: never by what the body claims. '' for others."""
        ...

    @property
    def topic(self) -> str: ...
    @property
    def message_id(self) -> str: ...
    @property
    def redelivered(self) -> bool: ...

    def ack(self) -> None:
        """Done with it: the bus forgets it."""
        ...

    def dead_letter(self, reason: str) -> None:
        """It can never be handled: put it aside with the reason (see `Bus.dead_letters`)."""
        ...

    def requeue(self) -> None:
        """Not now: hand it out again. After DELIVERY_LIMIT deliveries it is dead-lettered instead."""
        ...

    def reply(self, body: bytes) -> None:
        """Answer a request (REQUESTS only; the requester may have gone away: then it is dropped). It does not
        settle the delivery: reply, then ack."""
        ...


DELIVERY_LIMIT = 20
"""Deliveries after which an event, command or request that keeps coming back is dead-lettered."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that was put aside. `source` is the stream's name, `reason` why it was put aside
    (``delivery-limit``, ``expired``, or the words given to `Delivery.dead_letter`)."""

    body: bytes
    source: str
    reason: str
    message_id: str


class Subscription(Protocol):
    def close(self) -> None:
        """Stop delivering. Deliveries that are not settled go back to the queue. Idempotent."""
        ...


Handler = Callable[[Delivery], None]
"""Called on the bus's own thread: put the delivery into an inbox and return. Must not raise or block."""


class Bus(Protocol):
    """A connection to the bus, usable from any thread. Reconnects by itself, with full-jitter back-off;
    subscriptions survive a reconnect. Every method raises BusError after `close`."""

    def publish(
        self,
        to: Address,
        body: bytes,
        *,
        message_id: str,
        expires: float | None = None,
    ) -> Future[None]:
        """Send `body`; the future is done when the bus has confirmed it.

        The future raises BusUnavailable (not confirmed: may or may not have arrived; send it again with the
        same message_id), Unroutable (COMMANDS to an agent that has no queue) or BusRefused. HEARTBEATS and
        FEED are not confirmed: their future is done at once and losing one is no error. `expires`: seconds
        after which an undelivered message is dead-lettered (COMMANDS) or dropped.
        An event that still waits unread under the same sender and message_id need not be stored twice.
        Raises ValueError for a body over MAX_BODY. Never blocks on the network.
        """
        ...

    def subscribe(self, source: Address, handler: Handler, *, prefetch: int = 100) -> Subscription:
        """Deliver what arrives at `source` to `handler`, at most `prefetch` unsettled at a time.

        EVENTS, HEARTBEATS and REQUESTS: the controller's queues (no agent in the address); one consumer is
        active at a time. COMMANDS: that agent's queue. FEED: a copy of everything published from now on.
        Returns when the subscription is in place or the link is down (then it is placed on reconnect).
        """
        ...

    def request(self, body: bytes, *, timeout: float) -> bytes:
        """Send a request to the controller, wait for the reply. Blocks up to `timeout` seconds.

        Raises RequestTimedOut, BusUnavailable (also when this connection is lost or closed meanwhile: the
        request may have been acted upon), BusRefused.
        """
        ...

    def declare_controller(self, *, alone: bool = False) -> None:
        """Create exchanges and the controller's queues. Idempotent; repeated on every reconnect, together
        with the queues of all agents declared through this connection and not removed, and where one of
        these queues turns out to have been deleted. Controller only.

        `alone`: others that consume those queues and do not answer are to be put out, so that what they hold
        goes back. (The embedded bus puts out everybody, for it cannot tell a stopped process from a slow one;
        a broker by itself does so with whom it has not heard for half a minute.)

        Raises BusUnavailable, BusRefused."""
        ...

    def declare_agent(self, agent: str) -> None:
        """Create the command queue of `agent`, before its machine exists. Idempotent. Controller only."""
        ...

    def remove_agent(self, agent: str) -> None:
        """Remove the command queue of `agent` and what is in it. Idempotent. Controller only.

        The name must not be used again at once: RabbitMQ 3.10 does not tell the consumer of a quorum queue
        that is deleted and made anew within milliseconds. Agents' names are never used twice."""
        ...

    def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """A look at what was put aside, oldest first; nothing is removed."""
        ...

    def wait_connected(self, timeout: float) -> bool:
        """Wait until the link is up. False when it was not within `timeout` seconds. Raises BusRefused."""
        ...

    def close(self, timeout: float = 5.0) -> None:
        """Flush what is unconfirmed (up to `timeout` seconds), stop, give unsettled deliveries back.
        Idempotent."""
        ...
