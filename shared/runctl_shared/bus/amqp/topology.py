"""What stands at the broker: declared here, by the controller, and nowhere else.

Legal on RabbitMQ 3.10 to 4.x: durable queues only, every limit said explicitly. Arguments cannot be changed
on a queue that exists, so a new limit means a new name or a policy (the smaller of the two holds).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.port import DELIVERY_LIMIT, Stream

if TYPE_CHECKING:
    from pika.channel import Channel

HEARTBEAT_TTL_MS = 60_000
EVENTS_KEPT = 1_000_000
EVENTS_BYTES = 4 << 30
COMMANDS_KEPT = 10_000
REQUESTS_KEPT = 10_000
HEARTBEATS_KEPT = 100_000
FEED_KEPT = 10_000
DEAD_KEPT = 10_000
DEAD_BYTES = 1 << 30


class Exchange(msgspec.Struct, frozen=True):
    name: str
    kind: str


class Queue(msgspec.Struct, frozen=True):
    name: str
    arguments: dict[str, Any]  # AMQP's own table of mixed values


class Binding(msgspec.Struct, frozen=True):
    queue: str
    exchange: str
    key: str


Declaration = Exchange | Queue | Binding


def controller(names: Names) -> list[Declaration]:
    """Exchanges and the controller's own queues."""
    events, heartbeats = names.of(Stream.EVENTS), names.of(Stream.HEARTBEATS)
    requests = names.of(Stream.REQUESTS)
    return [
        # First what the others dead-letter to.
        Exchange(names.dead, "fanout"),
        Queue(names.dead, _dead()),
        Binding(names.dead, names.dead, ""),
        Exchange(events, "topic"),
        Queue(events, _events(names)),
        Binding(events, events, "agent.*.ev.#"),
        Queue(heartbeats, _heartbeats()),
        Binding(heartbeats, events, "agent.*.hb"),
        Exchange(names.of(Stream.COMMANDS), "direct"),
        Exchange(requests, "direct"),
        Queue(requests, {**_quorum(names, REQUESTS_KEPT), "x-single-active-consumer": True}),
        Binding(requests, requests, ""),
        Exchange(names.of(Stream.FEED), "topic"),
    ]


def agent(names: Names, agent_id: str) -> list[Declaration]:
    """The command queue of one agent. No single active consumer: after a cut, the agent's own dead consumer
    would hold its new one off for half a minute."""
    queue = names.command_queue(agent_id)
    return [
        Queue(queue, _quorum(names, COMMANDS_KEPT)),
        Binding(queue, names.of(Stream.COMMANDS), agent_id),
    ]


def feed() -> dict[str, Any]:
    """Arguments of a listener's own queue: a slow listener loses the oldest and slows down nobody."""
    return {"x-queue-type": "classic", "x-max-length": FEED_KEPT}


def declare(channel: Channel, declarations: Sequence[Declaration], done: Callable[[], None]) -> None:
    """Send all, wait for the last: the broker works in order, and closes `channel` at what it refuses."""
    for number, declaration in enumerate(declarations, start=1):
        last = number == len(declarations)
        _declare_one(channel, declaration, (lambda _frame: done()) if last else None)


def _declare_one(channel: Channel, what: Declaration, done: Callable[[object], None] | None) -> None:
    if isinstance(what, Exchange):
        channel.exchange_declare(what.name, what.kind, durable=True, callback=done)
    elif isinstance(what, Queue):
        channel.queue_declare(what.name, durable=True, arguments=what.arguments, callback=done)
    else:
        channel.queue_bind(what.queue, what.exchange, what.key, callback=done)


def _quorum(names: Names, kept: int) -> dict[str, Any]:
    return {
        "x-queue-type": "quorum",
        # The broker delivers once more than its limit says.
        "x-delivery-limit": DELIVERY_LIMIT - 1,
        "x-dead-letter-exchange": names.dead,
        "x-max-length": kept,
        "x-overflow": "reject-publish",
    }


def _events(names: Names) -> dict[str, Any]:
    return {
        **_quorum(names, EVENTS_KEPT),
        "x-max-length-bytes": EVENTS_BYTES,
        "x-single-active-consumer": True,
        "x-dead-letter-strategy": "at-least-once",
    }


def _heartbeats() -> dict[str, Any]:
    return {
        "x-queue-type": "classic",
        "x-message-ttl": HEARTBEAT_TTL_MS,
        "x-max-length": HEARTBEATS_KEPT,
        "x-single-active-consumer": True,
    }


def _dead() -> dict[str, Any]:
    # Not quorum: a look puts messages back, which a quorum queue counts, and drops them after twenty.
    return {"x-queue-type": "classic", "x-max-length": DEAD_KEPT, "x-max-length-bytes": DEAD_BYTES}
