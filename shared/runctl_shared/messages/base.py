"""What every message has around its body."""

from __future__ import annotations

import msgspec

from runctl_shared.messages.fields import Attempt, Count, Moment, Word

PROTOCOL = 1
"""Version of the wire contract. Raised only when an older peer would misunderstand."""


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """What a message says. Its class name is its kind on the wire."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """Who says it, about what, and which one it is.

    `id` is for de-duplication: the same message sent again has the same id. `sequence` counts an agent's
    events from 1 without gaps (0 for everything else). `sent` is when it was first put on record. `actor` is
    who asks, in a client's request: for the record, no proof.
    """

    v: int = PROTOCOL
    kind: Word
    id: Word
    run: Word = ""
    attempt: Attempt = 0
    agent: Word = ""
    sequence: Count = 0
    sent: Moment = 0.0
    actor: Word = ""
