"""Where things lie on the machine's own disk."""

from __future__ import annotations

from pathlib import Path

import msgspec

from runctl_shared.bus.login import Login, wants_login, with_login
from runctl_shared.errors import StoreUnusable
from runctl_shared.spec import Boot


class Place:
    """The machine's folder, as whoever boots it has laid it out: `boot.json`, perhaps `secrets.json` and
    `login.json`."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.boot = self.root / "boot.json"
        self.secrets = self.root / "secrets.json"
        self.login = self.root / "login.json"
        self.own = self.root / "agent"
        self.started = self.own / "started"
        self.spool = self.own / "spool.db"
        self.trainer = self.own / "trainer"
        self.taken = self.own / "taken"
        self.checkpoints = self.root / "checkpoints"
        self.restored = self.root / "restored"
        self.output = self.root / "output.log"

    def prepare(self) -> None:
        for folder in (self.own, self.checkpoints):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read_boot(self) -> Boot:
        """Raises StoreUnusable when the boot file is missing or damaged."""
        try:
            return msgspec.json.decode(self.boot.read_bytes(), type=Boot)
        except FileNotFoundError:
            raise StoreUnusable(
                f"There is no boot file {self.boot}.", "The agent is started by the machine that it serves."
            ) from None
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreUnusable(f"The boot file {self.boot} cannot be read: {error}.") from error

    def bus(self, boot: Boot) -> str:
        """The bus's URL with the login of this agent; a secret. Raises StoreUnusable without the login."""
        if not wants_login(boot.bus):
            return boot.bus
        try:
            return with_login(boot.bus, msgspec.json.decode(self.login.read_bytes(), type=Login))
        except (OSError, msgspec.MsgspecError) as error:
            # Not the error's own words: they might quote the login.
            raise StoreUnusable(
                f"The login to the bus, {self.login}, cannot be read ({type(error).__name__}).",
                "Whoever boots the machine lays it beside the boot file.",
            ) from None

    def read_secrets(self) -> dict[str, str]:
        """Names and values; empty when there are none. Raises StoreUnusable."""
        try:
            return msgspec.json.decode(self.secrets.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            # Not the error's own words: they might quote a secret.
            raise StoreUnusable(f"{self.secrets} cannot be read ({type(error).__name__}).") from None
