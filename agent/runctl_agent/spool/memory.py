"""The spool in memory: the fake. `MemoryDisk` is what survives the agent's process in a simulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runctl_agent.spool.port import Pending
from runctl_shared.messages.base import Body


class MemoryDisk:
    def __init__(self) -> None:
        self.state: bytes | None = None
        self.events: dict[int, Pending] = {}
        self.last = 0


class MemorySpool:
    """See Spool."""

    def __init__(self, encode: Callable[[Body, int, float], bytes], disk: MemoryDisk | None = None) -> None:
        self.disk = disk or MemoryDisk()
        self._encode = encode

    def load(self) -> bytes | None:
        return self.disk.state

    def commit(self, state: bytes, reports: Sequence[Body], at: float) -> Sequence[Pending]:
        new = [
            Pending(number, type(report).__name__, self._encode(report, number, at))
            for number, report in enumerate(reports, self.disk.last + 1)
        ]
        self.disk.state = state
        self.disk.last += len(new)
        self.disk.events.update((p.sequence, p) for p in new)
        return new

    def pending(self, after: int = 0, limit: int = 500) -> Sequence[Pending]:
        return [p for number, p in sorted(self.disk.events.items()) if number > after][:limit]

    def forget(self, through: int) -> None:
        for number in [n for n in self.disk.events if n <= through]:
            del self.disk.events[number]

    @property
    def last_sequence(self) -> int:
        return self.disk.last

    @property
    def empty(self) -> bool:
        return not self.disk.events

    def close(self) -> None:
        """Nothing to close."""
