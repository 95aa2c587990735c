"""The bus over RabbitMQ, through pika. Nothing outside this package imports pika."""

from __future__ import annotations

from runctl_shared.bus.amqp.bus import AmqpBus

__all__ = ["AmqpBus"]
