"""The bus behind a URL. Costs next to nothing to import: what it needs comes with the first connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runctl_shared.errors import UsageError

if TYPE_CHECKING:
    from runctl_shared.bus.port import Bus
    from runctl_shared.clock import Clock


def connect(url: str, *, clock: Clock, name: str = "") -> Bus:
    """A connection to the bus at `url`: ``sqlite:///absolute/path`` or ``amqp(s)://…``.

    Returns at once; see `Bus.wait_connected`. `name` says who we are to whoever looks at the broker.
    Raises UsageError for any other URL.
    """
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        if not rest.startswith("/") or rest.endswith("/"):
            raise UsageError(
                f"{url!r} does not name a file by its absolute path.",
                "Write sqlite:/// and the path, three slashes in all: sqlite:///home/me/bus.db.",
            )
        from runctl_shared.bus.embedded.bus import EmbeddedBus

        return EmbeddedBus(rest, clock=clock)
    if scheme in ("amqp", "amqps") and separator:
        from runctl_shared.bus.amqp import AmqpBus

        return AmqpBus(url, clock=clock, name=name)
    # Not the URL itself: one with a typing error may still hold a password.
    raise UsageError(
        f"A bus cannot be reached by {scheme!r}." if separator else "That is not the URL of a bus.",
        "Use sqlite:///absolute/path for one machine, amqp://… or amqps://… for RabbitMQ.",
    )
