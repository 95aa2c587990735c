"""What an agent may do at the broker, in the two languages that RabbitMQ has for it.

It publishes events and heartbeats under its own keys, reads its own commands, and nothing else: it declares,
binds and deletes nothing. Topic rights are said for every topic exchange, because RabbitMQ allows what no
topic right mentions.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.port import Stream

NOTHING = "^$"
RESOURCE = "runctl"
"""The broker's `auth_oauth2.resource_server_id`: whom our tokens are for."""


def scopes(names: Names, vhost: str, agent: str) -> list[str]:
    """For a token. A `*` would match anything; ids of agents hold none."""
    host = quote(vhost, safe="")
    return [
        f"{RESOURCE}.write:{host}/{names.of(Stream.EVENTS)}/agent.{agent}.*",
        f"{RESOURCE}.read:{host}/{names.command_queue(agent)}",
    ]


def permissions(names: Names, agent: str) -> dict[str, Any]:
    """For a user, as the management API takes them."""
    return {
        "configure": NOTHING,
        "write": _just(names.of(Stream.EVENTS)),
        "read": _just(names.command_queue(agent)),
    }


def topic_permissions(names: Names, agent: str) -> list[dict[str, Any]]:
    """For a user, as the management API takes them: one for each topic exchange."""
    own = rf"^agent\.{re.escape(agent)}\.(ev\.[A-Za-z0-9_-]*|hb)$"
    return [
        {"exchange": names.of(Stream.EVENTS), "write": own, "read": NOTHING},
        {"exchange": names.of(Stream.FEED), "write": NOTHING, "read": NOTHING},
    ]


def _just(name: str) -> str:
    return f"^{re.escape(name)}$"
