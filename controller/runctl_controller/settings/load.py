"""The settings of this process. Quick when nothing changed since the last command, see `cache`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from runctl_controller.settings import cache
from runctl_controller.settings.model import Settings
from runctl_controller.settings.places import find

if TYPE_CHECKING:
    from runctl_controller.settings.resolve import Resolved


def load(flags: Mapping[str, object] | None = None) -> Settings:
    """Flag > environment > .runctl.toml > user file > default.

    `flags` has the names of `Settings`; None in it means that the flag was not given. Raises one UsageError
    that lists everything that is wrong, with its mend.
    """
    flags = flags or {}
    places = find(os.environ)
    key = cache.key_of(places, flags)
    kept = cache.read(places, flags, key)
    if kept is not None:
        return kept
    found = explain(flags)
    # Not when a file changed while it was read: then the key says one thing and the settings another.
    if cache.key_of(find(os.environ), flags) == key:
        from runctl_shared.clock import SystemClock

        cache.write(places, key, found, SystemClock().now())
    return found.settings


def explain(flags: Mapping[str, object] | None = None) -> Resolved:
    """The settings with where each comes from, always read afresh. Raises as `load`."""
    from runctl_controller.settings.resolve import resolve

    return resolve(find(os.environ), flags or {})
