"""The logins of living agents, as secrets lie here: a file of mode 600 each, until the machine is gone.

The local provider reads it when it launches the machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from runctl_controller.access.port import AccessFailed
from runctl_shared.bus.login import Login


def login_file(state: Path, agent: str) -> Path:
    return state / "access" / f"{agent}.json"


def write_login(state: Path, agent: str, login: Login) -> None:
    """Raises AccessFailed."""
    path = login_file(state, agent)
    spare = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        spare.unlink(missing_ok=True)
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(login))
            file.flush()
            os.fsync(file.fileno())
        os.replace(spare, path)
    except OSError as error:
        raise AccessFailed(
            f"The login of {agent} cannot be kept in {path.parent}: {error.strerror}.",
            "Make room there, or mend the folder's permissions; it is tried again.",
        ) from error


def read_login(path: Path) -> Login:
    """Raises ValueError with a sentence that says what is wrong, and never holds the login."""
    try:
        mode = path.stat().st_mode
        login = msgspec.json.decode(path.read_bytes(), type=Login)
    except (OSError, msgspec.MsgspecError):
        raise ValueError(f"The machine's login to the bus is not to be had: {path} cannot be read.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ValueError(f"Others may read the login in {path}.")
    return login


def remove_login(state: Path, agent: str) -> None:
    """Raises AccessFailed."""
    try:
        login_file(state, agent).unlink(missing_ok=True)
    except OSError as error:
        raise AccessFailed(
            f"The login of {agent} cannot be removed: {error.strerror}.", "Mend the folder's permissions."
        ) from error


def agents_with_login(state: Path) -> Iterator[str]:
    for path in (state / "access").glob("*.json"):
        if not path.name.startswith("."):
            yield path.stem
