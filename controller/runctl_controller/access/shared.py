"""No confinement: buses that have no logins, and a broker at which all share the controller's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runctl_controller.access.files import agents_with_login, remove_login, write_login
from runctl_shared.bus.login import login_in, without_login


class NoLogins:
    """A bus that lets in whoever reaches it: the embedded one, whose file belongs to the user."""

    gives_logins = False

    def __init__(self, bus: str = "") -> None:
        self.bus = bus

    def check(self) -> None:
        pass

    def admit(self, agent: str, seconds: float) -> None:
        pass

    def revoke(self, agent: str) -> None:
        pass

    def sweep(self, living: Callable[[str], bool]) -> None:
        pass


class LoginFiles:
    """What all ways to let agents in have in common: the file that hands the login over."""

    gives_logins = True

    def __init__(self, bus: str, state: Path) -> None:
        self.bus = without_login(bus)
        self._state = state

    def check(self) -> None:
        pass

    def revoke(self, agent: str) -> None:
        remove_login(self._state, agent)

    def sweep(self, living: Callable[[str], bool]) -> None:
        for agent in list(agents_with_login(self._state)):
            if not living(agent):
                remove_login(self._state, agent)


class SharedLogin(LoginFiles):
    """Every machine gets the controller's own login: it may do all that the controller may."""

    def __init__(self, bus: str, state: Path) -> None:
        super().__init__(bus, state)
        self._login = login_in(bus)

    def admit(self, agent: str, seconds: float) -> None:
        if self._login is not None:
            write_login(self._state, agent, self._login)
