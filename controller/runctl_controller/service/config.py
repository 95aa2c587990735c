"""What a controller's process needs to know, resolved from the settings. Durations are seconds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runctl_controller.access.port import Agents

STANDBYS = "standbys"
TAKEOVER = 15.0
"""Seconds of silence after which one that stands by takes over."""


class ControllerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`bus`: the URL for the controller; agents get the same place with logins of their own, by `agents`,
    which needs `token_key` (a private key's file) or `management` (the broker's API). `embedded`: started
    on demand by the command line; it ends by itself when nothing has been left to do for `idle` seconds.
    `standby`: if there is a controller, wait until it has died or not answered for its `takeover`
    seconds."""

    state_dir: Path
    bus: str
    embedded: bool = False
    standby: bool = False
    idle: float = 60.0
    heartbeat: float = 10.0
    lease: float = 900.0
    kill_margin: float = 3.0
    notice_poll: float = 1.0
    boot_limit: float = 120.0
    takeover: float = TAKEOVER
    agents: Agents = Agents.SHARED
    token_key: Path | None = None
    management: str | None = None

    @property
    def database(self) -> Path:
        return self.state_dir / "controller.db"

    @property
    def machines(self) -> Path:
        return self.state_dir / "machines"

    @property
    def lock(self) -> Path:
        return self.state_dir / "controller.lock"

    @property
    def standbys(self) -> Path:
        """A file for each controller that stands by, held by it."""
        return self.state_dir / STANDBYS

    @property
    def log(self) -> Path:
        return self.state_dir / "controller.log"
