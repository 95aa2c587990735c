"""Settings for a process that is started elsewhere: it must not look for other files and find others."""

from __future__ import annotations

import msgspec

from runctl_controller.settings.model import Settings
from runctl_controller.settings.places import PREFIX


def as_environment(settings: Settings) -> dict[str, str]:
    """The variables with which `load` finds just these settings anywhere. May hold a password."""
    return {PREFIX + key.upper(): _text(value) for key, value in msgspec.structs.asdict(settings).items()}


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, float) else str(value)
