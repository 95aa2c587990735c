"""Names at the broker: exchanges, queues and routing keys, and what a routing key proves."""

from __future__ import annotations

import re

import msgspec

from runctl_shared.bus.port import Address, Stream

# One word of a routing key: no dot (a separator), no * or # (wildcards).
_WORD = re.compile(r"[A-Za-z0-9_-]{0,100}")
_SPOKEN = re.compile(r"agent\.([A-Za-z0-9_-]+)\.(?:ev\.([A-Za-z0-9_-]*)|hb)")


class Route(msgspec.Struct, frozen=True):
    """How a message reaches its destination. `confirmed`: the sender waits for the broker's word; then a
    message that no queue takes is given back to us, instead of being confirmed and lost."""

    exchange: str
    key: str
    confirmed: bool


class Names(msgspec.Struct, frozen=True):
    """Every name at the broker, under one prefix."""

    prefix: str = "runctl"

    def of(self, stream: Stream) -> str:
        """Of an exchange, and of the queue of the same name where there is one."""
        return f"{self.prefix}.{stream.value}"

    @property
    def dead(self) -> str:
        return f"{self.prefix}.dead"

    def command_queue(self, agent: str) -> str:
        if not agent:
            raise ValueError("commands go to an agent, and none is named")
        return f"{self.of(Stream.COMMANDS)}.{_word(agent)}"

    def queue(self, source: Address) -> str:
        """The queue to consume from; '' for the feed, where each listener has one of its own."""
        if source.stream is Stream.FEED:
            return ""
        if source.stream is Stream.COMMANDS:
            return self.command_queue(source.agent)
        return self.of(source.stream)

    def route(self, to: Address) -> Route:
        """Raises ValueError for an address that is not one."""
        agent, topic = _word(to.agent), _word(to.topic)
        if to.stream in (Stream.EVENTS, Stream.HEARTBEATS, Stream.COMMANDS) and not agent:
            raise ValueError(f"an address of {to.stream.value} names an agent")
        if to.stream is Stream.EVENTS:
            return Route(self.of(Stream.EVENTS), f"agent.{agent}.ev.{topic}", confirmed=True)
        if to.stream is Stream.HEARTBEATS:
            # Through the same exchange: there, one rule confines an agent to its own keys.
            return Route(self.of(Stream.EVENTS), f"agent.{agent}.hb", confirmed=False)
        if to.stream is Stream.COMMANDS:
            return Route(self.of(Stream.COMMANDS), agent, confirmed=True)
        if to.stream is Stream.REQUESTS:
            return Route(self.of(Stream.REQUESTS), "", confirmed=True)
        return Route(self.of(Stream.FEED), topic, confirmed=False)

    def stream_of(self, queue: str) -> str:
        """The stream that a queue belongs to, by name."""
        return queue.removeprefix(self.prefix + ".").partition(".")[0]


def spoken(stream: Stream, key: object) -> tuple[str, str | None]:
    """Who sent a message, and its topic where the key tells it. The broker lets an agent use its own keys
    only, so this much is proven; nothing in the message is."""
    match = _SPOKEN.fullmatch(text(key)) if stream in (Stream.EVENTS, Stream.HEARTBEATS) else None
    return (match.group(1), match.group(2)) if match else ("", None)


def text(value: object) -> str:
    """`value` as pika brings it; '' for what is not text: pika brings bytes where a text is not Unicode."""
    return value if isinstance(value, str) else ""


def plain_word(value: object) -> str:
    """`value` if it is one, else ''."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else ""


def _word(text: str) -> str:
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not one plain word of letters, digits, - and _")
    return text
