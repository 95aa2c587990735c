"""Dead letters: how ours are marked, how the broker marks its own, and a look at them."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import pika

from runctl_shared.bus.amqp.delivery import AmqpDelivery
from runctl_shared.bus.amqp.names import Names, Route, text
from runctl_shared.bus.port import DeadLetter, Stream

if TYPE_CHECKING:
    from pika.channel import Channel
    from pika.spec import Basic

REASON = "x-runctl-reason"
SOURCE = "x-runctl-source"
_LONGEST_REASON = 500


def copy_of(delivery: AmqpDelivery, reason: str, names: Names) -> tuple[Route, pika.BasicProperties]:
    """Where to publish a copy of `delivery`, and how to mark it."""
    properties = pika.BasicProperties(
        message_id=delivery.message_id,
        type=delivery.topic,
        delivery_mode=2,
        headers={REASON: reason[:_LONGEST_REASON], SOURCE: delivery.stream.value},
    )
    return Route(names.dead, "", confirmed=True), properties


def read(properties: pika.BasicProperties, body: bytes, names: Names) -> DeadLetter | None:
    """The dead letter, or None for what only grew old: of that, commands alone are kept."""
    headers: dict[Any, Any] = properties.headers or {}
    death = _death(headers.get("x-death"))
    # The broker's own mark first: a sender can have written ours into its message, but not over the broker's.
    if death is not None:
        source, reason = (
            names.stream_of(text(death.get("queue"))),
            text(death.get("reason")).replace("_", "-"),
        )
        if reason == "expired" and source != Stream.COMMANDS.value:
            return None
    else:
        source, reason = text(headers.get(SOURCE)), text(headers.get(REASON))
    return DeadLetter(body=body, source=source, reason=reason, message_id=text(properties.message_id))


def _death(header: object) -> dict[Any, Any] | None:
    """The newest entry of the broker's mark. One that a sender made up may hold anything."""
    first = header[0] if isinstance(header, list) and header else None
    return first if isinstance(first, dict) else None


class Look:
    """Takes up to `limit` dead letters, one after the other, and never settles them: they go back, in their
    old order, when the channel is closed."""

    def __init__(self, names: Names, limit: int) -> None:
        self._names = names
        self._limit = limit
        self._seen: list[DeadLetter] = []

    def work(self, channel: Channel, result: Future[list[DeadLetter]]) -> None:
        self._result = result
        channel.add_callback(self._empty, [pika.spec.Basic.GetEmpty])
        self._next(channel)

    def _next(self, channel: Channel) -> None:
        if len(self._seen) >= self._limit:
            self._result.set_result(self._seen)
        else:
            channel.basic_get(self._names.dead, self._got)

    def _got(
        self, channel: Channel, _method: Basic.GetOk, properties: pika.BasicProperties, body: bytes
    ) -> None:
        letter = read(properties, body, self._names)
        if letter is not None:
            self._seen.append(letter)
        self._next(channel)

    def _empty(self, _frame: object) -> None:
        self._result.set_result(self._seen)
