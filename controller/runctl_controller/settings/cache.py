"""Resolved settings, kept between commands: pydantic alone takes longer than a whole `runctl ls` may.

Never holds a password: a broker's URL that has one is read again from where it stands (see SECRET).
A cache that cannot be read or written is as good as none, and not worth a word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from runctl_controller import __version__
from runctl_controller.settings import model
from runctl_controller.settings.masks import holds_password, mask
from runctl_controller.settings.model import Settings
from runctl_controller.settings.places import ENVIRONMENT, FLAG, PREFIX, Places, stamp

if TYPE_CHECKING:
    from runctl_controller.settings.resolve import Resolved

SECRET = ("bus_url", "bus_management")
"""The settings that may hold a password and still be used by every command."""
_ENTRIES = 32
_MOST_BYTES = 1 << 20
_SETTLED = 2.0
"""Seconds. A younger file may change again without any of its stamps changing."""


class Entry(msgspec.Struct, frozen=True):
    """`key`: all that the settings depend on, in full, so that two can never be confused. `secrets_at`: the
    origins (as in `resolve.Resolved`) of the values with a password, which `settings` lacks then."""

    key: str
    settings: Settings
    secrets_at: dict[str, str]


def key_of(places: Places, flags: Mapping[str, object]) -> str:
    """What the settings depend on, passwords aside."""
    given = {**places.variables, **{key: value for key, value in flags.items() if value is not None}}
    shown = [(name, mask(v) if isinstance(v, str) else v) for name, v in sorted(given.items())]
    # The model's own file: its defaults may change without the version doing so while runctl is developed.
    code = (__version__, stamp(model.__file__))
    home = (os.geteuid(), os.path.expanduser("~"), places.state_dir)
    return ascii((code, home, places.cwd, places.stamps, shown))


def read(places: Places, flags: Mapping[str, object], key: str) -> Settings | None:
    """The settings kept under `key`."""
    for entry in _entries(_file(places)):
        if entry.key == key:
            return _whole(entry, places, flags)
    return None


def write(places: Places, key: str, found: Resolved, now: float) -> None:
    """Keep what was resolved, unless a file is so young (`now`: UTC seconds) that it may change unseen."""
    newest = max((max(s[:2]) for _, s in places.stamps if s is not None), default=0)
    secret = [key for key in SECRET if holds_password(getattr(found.settings, key))]
    secrets_at = {key: found.origins[key] for key in secret}
    settings = msgspec.structs.replace(found.settings, **dict.fromkeys(secret))
    if newest / 1e9 > now - _SETTLED or any(map(holds_password, msgspec.structs.astuple(settings))):
        return
    path = _file(places)
    others = [entry for entry in _entries(path) if entry.key != key]
    try:
        content = msgspec.msgpack.encode([Entry(key, settings, secrets_at), *others[: _ENTRIES - 1]])
        _replace(path, content)
    except (OSError, ValueError):
        return


def _whole(entry: Entry, places: Places, flags: Mapping[str, object]) -> Settings | None:
    """The settings with the URLs that the cache may not hold; None when one is not where it was."""
    urls = {key: _said(key, origin, places, flags) for key, origin in entry.secrets_at.items()}
    if not all(isinstance(url, str) for url in urls.values()):
        return None
    return msgspec.structs.replace(entry.settings, **urls)


def _said(key: str, origin: str, places: Places, flags: Mapping[str, object]) -> object:
    if origin == FLAG:
        return flags.get(key)
    if origin == ENVIRONMENT:
        return places.variables.get(PREFIX + key.upper())
    import tomllib

    try:
        with open(origin, "rb") as file:
            return tomllib.load(file).get(key)
    except (OSError, ValueError):
        return None


def _file(places: Places) -> str:
    return os.path.join(places.cache_dir, "settings.msgpack")


def _entries(path: str) -> list[Entry]:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(handle)
            # What others could have written could send us to their broker.
            if found.st_uid != os.geteuid() or found.st_mode & 0o022 or found.st_size > _MOST_BYTES:
                return []
            return msgspec.msgpack.decode(file.read(), type=list[Entry])
    except (OSError, ValueError, msgspec.MsgspecError):
        return []


def _replace(path: str, content: bytes) -> None:
    import tempfile

    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    handle, fresh = tempfile.mkstemp(prefix=".settings-", dir=os.path.dirname(path))
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(fresh, path)
    except BaseException:
        os.unlink(fresh)
        raise
