"""Passwords inside values: found, and never shown."""

from __future__ import annotations

import re

# Up to the last @: a password that was not quoted for a URL may hold any character.
_USERINFO = re.compile(r"(://[^:/@\s]*):.*@", re.DOTALL)
_OPTION = re.compile(r"([?&][^=&]*(?:pass|secret|token|signature)[^=&]*=)[^&]+", re.IGNORECASE)


def mask(text: str) -> str:
    """`text` without the passwords of the URL that it is or holds."""
    return _OPTION.sub(r"\1***", _USERINFO.sub(r"\1:***@", text))


def holds_password(value: object) -> bool:
    """Whether showing or storing `value` would give a password away."""
    return isinstance(value, str) and mask(value) != value
