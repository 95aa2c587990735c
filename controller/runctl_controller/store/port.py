"""The controller's store: the only truth. Whoever decides, loads, stores and queues in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from runctl_controller.core.effects import Effect, Tell
from runctl_controller.core.leadership import Leadership
from runctl_controller.core.model import Record, Run
from runctl_shared.errors import StoreUnusable
from runctl_shared.messages.events import Heartbeat


class Superseded(StoreUnusable):
    """Another controller has taken over, or the state is no longer ours: this one must not write any more."""

    code = "superseded"


def superseded(by: Leadership) -> Superseded:
    """In words. `by`: who leads instead."""
    return Superseded(
        f"Another controller (process {by.pid or 'unknown'}, epoch {by.epoch}) has taken over and leads now."
        " This one has written nothing since, and ends.",
        "`runctl controller start --standby` starts one that waits for its turn.",
    )


class Outgoing(msgspec.Struct, frozen=True, kw_only=True):
    """An effect that is to leave the process. `id` orders them; it stays until `done`."""

    id: int
    run: str
    effect: Effect


class DueTimer(msgspec.Struct, frozen=True, kw_only=True):
    run: str
    key: str
    at: float


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """The newest heartbeat of an agent, and when it came (UTC seconds)."""

    agent: str
    at: float
    body: Heartbeat


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """An item of a run's story. `number` counts the items of all runs, and is never given again; `name` is
    the run's."""

    number: int
    run: str
    name: str
    item: Tell


class Forgotten(msgspec.Struct, frozen=True, kw_only=True):
    """What stays of a run that was removed: `uses` are the seconds and dollars for each use of its machines.
    Times are UTC seconds; `by` is who removed it."""

    run: str
    name: str
    project: str
    created_at: float
    removed_at: float
    by: str
    uses: dict[str, tuple[float, float]] = {}

    @property
    def dollars(self) -> float:
        return sum(paid for _, paid in self.uses.values())


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Of all runs that were removed and not brought back."""

    runs: int = 0
    dollars: float = 0.0


class Transaction(Protocol):
    """Everything in it becomes true together, or not at all."""

    def load(self, run: str) -> Record | None:
        """The run with its attempts, machines and intervals."""
        ...

    def save(self, record: Record) -> None:
        """Store the record: a new run, or what changed of a known one."""
        ...

    def remove(self, left: Forgotten) -> None:
        """Take the run off the record with all that belongs to it; `left` stays, and counts in `sums`."""
        ...

    def recall(self, run: str) -> Forgotten | None:
        """The run comes back: what stayed of it, which counts no more."""
        ...

    def sums(self) -> Sums: ...

    def run_id(self, name_or_id: str) -> str | None:
        """The run of that id, else the newest run of that name."""
        ...

    def beginning(self, start: str, limit: int) -> Sequence[str]:
        """Ids of runs: those that begin with `start` (not empty), in their order, then the newest run of each
        name that does, in order of the names. Up to `limit` of each; one may come twice."""
        ...

    def run_of_agent(self, agent: str) -> str | None: ...

    def runs(self, *, limit: int, project: str | None = None, only_open: bool = False) -> Sequence[Run]:
        """Newest first. `only_open`: those that runctl has something to do for."""
        ...

    def busy(self) -> Sequence[str]:
        """Runs with an open attempt, a machine that is not known to be gone, or an open state."""
        ...

    def queue(self, run: str, effects: Iterable[Effect]) -> None:
        """Put effects into the outbox, in this order."""
        ...

    def outgoing(self, after: int = 0, limit: int = 1000) -> Sequence[Outgoing]:
        """What waits in the outbox with an id above `after`, oldest first."""
        ...

    def done(self, outgoing: int) -> None: ...

    def set_timer(self, run: str, key: str, at: float) -> None: ...

    def cancel_timer(self, run: str, key: str) -> None: ...

    def take_due(self, now: float, limit: int = 1000) -> Sequence[DueTimer]:
        """Up to `limit` timers due by `now`, earliest first; they are removed, so this transaction must act
        on them."""
        ...

    def shift_timers(self, seconds: float) -> None:
        """Move every timer by so much: the clock was set."""
        ...

    def next_timer(self) -> float | None: ...

    def tell(self, run: str, item: Tell) -> int:
        """Add to the run's story. Its number among those of all runs: a later one is greater."""
        ...

    def told_after(self, number: int, limit: int, run: str | None = None) -> Sequence[Told]:
        """The first `limit` items beyond `number`, of `run` or of all, oldest first."""
        ...

    def told_before(self, number: int, limit: int, run: str | None = None) -> Sequence[Told]:
        """The last `limit` items before `number`, of `run` or of all, newest first."""
        ...

    def newest_told(self) -> int:
        """The number of the newest item; 0 when there is none."""
        ...

    def story(self, run: str, limit: int) -> Sequence[Tell]:
        """The newest `limit` items, oldest first."""
        ...

    def save_beats(self, beats: Iterable[Beat]) -> None: ...

    def beats(self, agents: Iterable[str]) -> Sequence[Beat]: ...


class Store(Protocol):
    """Transactions are serial. Raises StoreUnusable: damaged, not writable, or written by a newer version."""

    def transaction(self) -> AbstractContextManager[Transaction]:
        """Commits on leaving, rolls back on an exception. Raises Superseded, and commits nothing, after
        somebody else's `take_over`: that is seen inside the transaction."""
        ...

    def take_over(
        self,
        *,
        pid: int = 0,
        now: float = 0.0,
        seconds: float = 0.0,
        instead_of: Leadership | None = None,
    ) -> Leadership:
        """Become the one who writes: every transaction of earlier leaders fails from now on. `pid`, `now`
        (UTC) and `seconds`: see Leadership. `instead_of`: only if that is what the store still says; raises
        Superseded when that leader has been heard of since, or somebody else was quicker."""
        ...

    def renew(self) -> None:
        """Show that the leader is well. Raises Superseded like a transaction."""
        ...

    def leadership(self) -> Leadership | None:
        """Who leads, as it was last written. Waits for nobody, not even for a writer that never ends; None
        when that cannot be told now."""
        ...

    def installation(self) -> str:
        """The id of this installation: made once, marks machines as ours."""
        ...

    def close(self) -> None: ...
