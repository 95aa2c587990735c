"""A user of the broker for each attempt, made and removed through RabbitMQ's management API."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from runctl_controller.access.files import login_file, read_login, write_login
from runctl_controller.access.management import Management
from runctl_controller.access.port import AccessRefused
from runctl_controller.access.rights import permissions, topic_permissions
from runctl_controller.access.shared import LoginFiles
from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.amqp.target import parse
from runctl_shared.bus.login import Login


class Users(LoginFiles):
    """Users are named for this installation, so that nobody else's is ever taken for ours."""

    def __init__(self, bus: str, state: Path, installation: str, api: Management) -> None:
        super().__init__(bus, state)
        target = parse(bus)
        self._names, self._vhost = Names(target.prefix), target.vhost
        self._ours = f"{target.prefix}.{installation}."
        self._api = api

    def check(self) -> None:
        who = self._api.get("whoami")
        tags = who.get("tags", ()) if isinstance(who, dict) else ()
        # A list today, words in one text with RabbitMQ before 3.9.
        if "administrator" not in (tags.split(",") if isinstance(tags, str) else tags):
            raise AccessRefused(
                f"{self._api.user} may not make users at the broker.",
                "Give that user the tag `administrator`, or name another in RUNCTL_BUS_MANAGEMENT.",
            )

    def admit(self, agent: str, seconds: float) -> None:
        """The login is on record here before the user is made: a further try makes the same one again."""
        login = self._login(agent)
        user = quote(login.user, safe="")
        self._api.put(f"users/{user}", {"password": login.password, "tags": ""})
        # First what confines it: until it has permissions it cannot even enter.
        for one in topic_permissions(self._names, agent):
            self._api.put(f"topic-permissions/{self._host}/{user}", one)
        self._api.put(f"permissions/{self._host}/{user}", permissions(self._names, agent))

    def revoke(self, agent: str) -> None:
        """Its connections end with it."""
        self._api.delete(f"users/{quote(self._ours + agent, safe='')}")
        super().revoke(agent)

    def sweep(self, living: Callable[[str], bool]) -> None:
        # The broker first, the store after: whoever is made meanwhile is on record before it is a user.
        found = self._api.get("users?columns=name")
        names = [str(one.get("name")) for one in found] if isinstance(found, list) else []
        for name in names:
            agent = name.removeprefix(self._ours)
            if agent != name and not living(agent):
                self.revoke(agent)
        super().sweep(living)

    @property
    def _host(self) -> str:
        return quote(self._vhost, safe="")

    def _login(self, agent: str) -> Login:
        user = self._ours + agent
        try:
            known = read_login(login_file(self._state, agent))
        except ValueError:
            known = None
        if known is not None and known.user == user:
            return known
        fresh = Login(user, secrets.token_urlsafe(32))
        write_login(self._state, agent, fresh)
        return fresh
