"""A token for each attempt, for RabbitMQ's OAuth 2 backend: nothing has to be made at the broker.

The broker knows the public key only. A token lasts until the machine's hard end, which does not move once the
machine is launched; it cannot be taken back before, but then its queue is gone, and what it still publishes
under its own keys is of an attempt that has ended.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from runctl_controller.access.files import write_login
from runctl_controller.access.port import AccessFailed, AccessRefused
from runctl_controller.access.rights import RESOURCE, scopes
from runctl_controller.access.shared import LoginFiles
from runctl_shared.bus.amqp.bus import AmqpBus
from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.amqp.target import parse
from runctl_shared.bus.login import Login, with_login
from runctl_shared.bus.port import BusRefused
from runctl_shared.clock import Clock

MARGIN = 3600.0
"""Seconds beyond the hard end: clocks differ, and a last checkpoint is still to be told of."""
CHECK_TIMEOUT = 5.0
"""Seconds: while it waits, whoever stands by takes the controller for dead."""
_ALGORITHM = "RS256"
_KEY_ID = "runctl"
_HOW = "deploy/rabbitmq/README.md shows how such a key is made and given to the broker."


class Tokens(LoginFiles):
    """`key` is the file of the private key (PEM, RSA, mode 600)."""

    def __init__(self, bus: str, state: Path, key: Path, clock: Clock) -> None:
        """Raises AccessRefused for a key that cannot be used."""
        super().__init__(bus, state)
        target = parse(bus)
        self._names, self._vhost, self._place = Names(target.prefix), target.vhost, target.place
        self._clock = clock
        self._key = _read_key(key)

    def login(self, agent: str, seconds: float) -> Login:
        """The token is the password; of the name RabbitMQ makes nothing."""
        import jwt

        now = int(self._clock.now())
        claims = {
            "aud": RESOURCE,
            "sub": agent,
            "client_id": agent,
            "iat": now,
            "exp": now + int(seconds + MARGIN),
            "scope": scopes(self._names, self._vhost, agent),
        }
        token = jwt.encode(claims, self._key, algorithm=_ALGORITHM, headers={"kid": _KEY_ID})
        return Login(agent, token)

    def check(self) -> None:
        """Come in as an agent would, before any money depends on it."""
        from contextlib import closing

        probe = with_login(self.bus, self.login("agent-probe-0", 0.0))
        with closing(AmqpBus(probe, clock=self._clock, name="probe")) as bus:
            try:
                there = bus.wait_connected(CHECK_TIMEOUT)
            except BusRefused:
                raise AccessRefused(
                    f"The broker at {self._place} does not accept the tokens that agents are given.",
                    f"Does it have the public key to RUNCTL_BUS_TOKEN_KEY? {_HOW}",
                ) from None
        if not there:
            raise AccessFailed(
                f"The broker at {self._place} did not answer in time.", "Check that it is running."
            )

    def admit(self, agent: str, seconds: float) -> None:
        write_login(self._state, agent, self.login(agent, seconds))


def _read_key(path: Path) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read()
    except OSError as error:
        raise AccessRefused(f"The key {path} cannot be read: {error.strerror}.", _HOW) from None
    if stat.S_IMODE(mode) & 0o077:
        raise AccessRefused(f"Others may read the key {path}.", f"Keep them from it: chmod 600 {path}")
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, RSAPrivateKey) or key.key_size < 2048:
        raise AccessRefused(f"{path} holds no private RSA key of 2048 bits or more, in PEM.", _HOW)
    return pem
