"""Resolved settings, kept between commands: pydantic alone takes longer than a whole `runctl ls` may.

Never holds a password. A cache that cannot be read or written is as good as none, and not worth a word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from runctl_controller import __version__
from runctl_controller.settings import model
from runctl_controller.settings.masks import holds_password
from runctl_controller.settings.model import Settings
from runctl_controller.settings.places import Places, stamp

_ENTRIES = 32
_MOST_BYTES = 1 << 20
_SETTLED = 2.0
"""Seconds. A younger file may change again without any of its stamps changing."""


class Entry(msgspec.Struct, frozen=True):
    """`key`: all that the settings depend on, in full, so that two can never be confused."""

    key: str
    settings: Settings


def key_of(places: Places, flags: Mapping[str, object]) -> str | None:
    """What the settings depend on; None when that holds a password and therefore must not be kept."""
    given = {key: value for key, value in sorted(flags.items()) if value is not None}
    if any(holds_password(value) for value in (*places.variables.values(), *map(str, given.values()))):
        return None
    # The model's own file: its defaults may change without the version doing so while runctl is developed.
    code = (__version__, stamp(model.__file__))
    home = (os.geteuid(), os.environ.get("HOME"), os.path.expanduser("~"), places.state_dir)
    return ascii((code, home, places.cwd, places.stamps, places.variables, given))


def read(places: Places, key: str) -> Settings | None:
    """The settings kept under `key`."""
    return next((entry.settings for entry in _entries(_file(places)) if entry.key == key), None)


def write(places: Places, key: str, settings: Settings, now: float) -> None:
    """Keep `settings`, unless a file changed so lately (`now`: UTC seconds) that it may change unseen."""
    newest = max((max(s[:2]) for _, s in places.stamps if s is not None), default=0)
    if newest / 1e9 > now - _SETTLED or any(holds_password(v) for v in msgspec.structs.astuple(settings)):
        return
    path = _file(places)
    others = [entry for entry in _entries(path) if entry.key != key]
    try:
        _replace(path, msgspec.msgpack.encode([Entry(key, settings), *others[: _ENTRIES - 1]]))
    except (OSError, ValueError):
        return


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
