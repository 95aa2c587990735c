"""The access that the settings ask for."""

from __future__ import annotations

import logging
from typing import TypeVar

from runctl_controller.access.port import Access, AccessFailed, AccessRefused, Agents
from runctl_controller.access.shared import NoLogins, SharedLogin
from runctl_controller.service.config import ControllerConfig
from runctl_shared.clock import Clock
from runctl_shared.errors import UsageError

T = TypeVar("T")

log = logging.getLogger("runctl.access")


def checked_access(config: ControllerConfig, installation: str, clock: Clock) -> Access:
    """As open_access; it lets agents in, or nobody can know yet. Raises AccessRefused when it does not."""
    access = open_access(config, installation, clock)
    try:
        access.check()
    except AccessRefused:
        raise
    except AccessFailed as error:
        log.warning("access.unchecked reason=%s", error)
    return access


def open_access(config: ControllerConfig, installation: str, clock: Clock) -> Access:
    """Raises UsageError for settings that lack what their way needs, AccessRefused for a key that cannot be
    used."""
    if config.bus.startswith("sqlite:"):
        return NoLogins(config.bus)
    if config.agents is Agents.TOKEN:
        from runctl_controller.access.tokens import Tokens

        return Tokens(config.bus, config.state_dir, _needed(config.token_key, "TOKEN_KEY"), clock)
    if config.agents is Agents.USER:
        from runctl_controller.access.management import Management
        from runctl_controller.access.users import Users

        api = Management(_needed(config.management, "MANAGEMENT"))
        return Users(config.bus, config.state_dir, installation, api)
    log.warning(
        "access.shared every machine gets the controller's own login to the broker: whoever gets hold of one "
        "can read and send anything. Set RUNCTL_BUS_AGENTS to token or user; deploy/rabbitmq/README.md tells "
        "what the broker needs for it"
    )
    return SharedLogin(config.bus, config.state_dir)


def _needed(value: T | None, name: str) -> T:
    if value is None:
        raise UsageError(
            f"RUNCTL_BUS_AGENTS asks for logins of the agents' own, which need RUNCTL_BUS_{name}.",
            "Set it; deploy/rabbitmq/README.md tells how.",
        )
    return value
