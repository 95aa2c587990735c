"""Fresh identifiers: the only place that draws randomness for them."""

from __future__ import annotations

import secrets

# Crockford's base 32 in lower case: no i, l, o, u, so that an id can be read aloud.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def new_id(prefix: str, length: int = 12) -> str:
    """A fresh id such as ``run-7f3k9m2p4q8s``: 5 bits of randomness per character."""
    return prefix + "-" + "".join(secrets.choice(_ALPHABET) for _ in range(length))
