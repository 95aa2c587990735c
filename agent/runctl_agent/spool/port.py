"""The spool: the agent's state and its outbox, changed together or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from runctl_shared.messages.base import Body


class Pending(msgspec.Struct, frozen=True):
    """An event that the controller has not acknowledged. `data` is the encoded message."""

    sequence: int
    kind: str
    data: bytes


class Spool(Protocol):
    """One agent's. Not for use by several threads at once. Raises OSError when the disk fails."""

    def load(self) -> bytes | None:
        """The state as it was last committed; None at the very first start."""
        ...

    def commit(self, state: bytes, reports: Sequence[Body], at: float) -> Sequence[Pending]:
        """Store the state and number the events (from 1, without gaps), in one transaction. `at`: UTC."""
        ...

    def pending(self, after: int = 0, limit: int = 500) -> Sequence[Pending]:
        """Events above `after` that are not forgotten, in order."""
        ...

    def forget(self, through: int) -> None:
        """The controller has committed every event up to and including this number."""
        ...

    @property
    def last_sequence(self) -> int:
        """The number of the newest event, forgotten or not; 0 before the first."""
        ...

    @property
    def empty(self) -> bool:
        """Whether the controller has acknowledged everything."""
        ...

    def close(self) -> None: ...
