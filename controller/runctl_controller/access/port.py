"""The port: whoever lets agents into the bus."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from runctl_shared.errors import RunctlError


class AccessFailed(RunctlError):
    """It did not work now. Nothing is half done that a repeated call does not mend: try again later."""

    code = "access"


class AccessRefused(AccessFailed):
    """The broker will not do it for us. Only a person can mend that."""


class Agents(StrEnum):
    """How agents are let in (RUNCTL_BUS_AGENTS)."""

    TOKEN = "token"  # noqa: S105 -- the name of a way, no token
    USER = "user"
    SHARED = "shared"


class Access(Protocol):
    """Gives every agent a login of its own and takes it back. Usable from any thread; every call may be
    repeated.

    `bus` is the URL for boot files: it holds no login. `gives_logins`: whether `admit` leaves one at
    `files.login_file`, for the provider to hand over as it does secrets (`LaunchOrder.login`).
    """

    bus: str
    gives_logins: bool

    def check(self) -> None:
        """At the start: would agents be let in? Raises AccessRefused when only a person can mend it, and
        AccessFailed when it cannot be found out now."""
        ...

    def admit(self, agent: str, seconds: float) -> None:
        """Let `agent` in for at least so many seconds. Called before its machine is launched, and again at
        every further try; the agent is on record by then. Raises AccessFailed."""
        ...

    def revoke(self, agent: str) -> None:
        """The machine of `agent` is gone: nobody comes in by its login any more, as far as that is ours to
        say, and no trace of it is left here. Raises AccessFailed."""
        ...

    def sweep(self, living: Callable[[str], bool]) -> None:
        """Take back what was given to agents that are not living any more: what a crash left behind. Touches
        nothing that another installation has made. Raises AccessFailed."""
        ...
