"""The settings as they are resolved. Plain and quick to load: clients read them from a cache."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runctl_controller.access.port import Agents
from runctl_controller.service.config import ControllerConfig


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Durations are seconds. `bus_url` None: no broker is configured; the embedded bus serves this machine.
    `checkpoints` None: below the state folder. `bus_agents`: how agents are let in at a broker (see
    access.port.Agents); token needs `bus_token_key`, the file of a private key, user `bus_management`, the
    URL of the broker's management API."""

    state_dir: str
    bus_url: str | None = None
    bus_agents: str = Agents.SHARED.value
    bus_token_key: str | None = None
    bus_management: str | None = None
    checkpoints: str | None = None
    project: str = "default"
    provider: str = "local"
    max_restarts: int = 0
    max_hours: float | None = None
    grace: float = 90.0
    signal: str = "SIGTERM"
    resume_arg: str | None = None
    lease: float = 900.0
    heartbeat: float = 5.0
    notice_poll: float = 1.0
    idle: float = 60.0
    log_level: str = "warning"

    @property
    def bus(self) -> str:
        """The URL of the bus: the broker's, or that of the embedded one."""
        return self.bus_url or f"sqlite://{Path(self.state_dir) / 'bus.db'}"

    @property
    def store(self) -> str:
        """Where checkpoints are kept unless a run says otherwise."""
        return self.checkpoints or f"file://{Path(self.state_dir) / 'checkpoints'}"


def controller_config(settings: Settings, *, embedded: bool, standby: bool = False) -> ControllerConfig:
    """What a controller's process needs of the settings."""
    return ControllerConfig(
        state_dir=Path(settings.state_dir),
        bus=settings.bus,
        embedded=embedded,
        standby=standby,
        idle=settings.idle,
        heartbeat=settings.heartbeat,
        lease=settings.lease,
        notice_poll=settings.notice_poll,
        agents=Agents(settings.bus_agents),
        token_key=None if settings.bus_token_key is None else Path(settings.bus_token_key),
        management=settings.bus_management,
    )
