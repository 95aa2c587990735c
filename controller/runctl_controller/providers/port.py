"""The provider port: whoever rents us machines.

Small on purpose. Errors are named for what the caller does next; a provider's own codes stay in that
provider's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from runctl_shared.errors import ProviderFailed
from runctl_shared.messages.events import NoticeKind


class NoCapacity(ProviderFailed):
    """None to be had here now: try another place."""

    code = "no_capacity"


class QuotaExceeded(ProviderFailed):
    """Our own limit is reached: another family or region."""

    code = "quota"


class Refused(ProviderFailed):
    """It will never be granted like this: stop and tell the user."""

    code = "refused"


class Throttled(ProviderFailed):
    """Too fast, or a passing failure: wait and try the same again."""

    code = "throttled"


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A machine type in a place at a price. `price` is dollars per hour, `notice` the seconds of warning the
    provider gives before it takes such a machine away (0: none)."""

    provider: str
    kind: str
    place: str
    price: float
    spot: bool
    notice: float


class LaunchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to launch. Stored before the provider is called.

    `token` is the client token: the same token is the same machine, for ever. `machine` is our own id of
    it, `boot` the agent's boot file (JSON, no secrets), `secrets` the *names* of secrets to hand over,
    `hard_end` and `boot_limit` seconds from launch after which the machine ends itself: always, and when
    the agent has not started by then. `login`: the machine also gets its agent's own login to the bus, as
    `login.json` beside the boot file; it lies where `access.files` says and is handled like a secret.
    `tags` mark it as ours from the call itself.
    """

    token: str
    machine: str
    offer: Offer
    boot: bytes
    secrets: tuple[str, ...] = ()
    login: bool = False
    hard_end: float
    boot_limit: float
    tags: dict[str, str]


class MachineState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    ENDING = "ending"
    TERMINATED = "terminated"
    ABSENT = "absent"  # the provider does not list it (now). Evidence of nothing shortly after a launch.


class EndCause(StrEnum):
    """Why a machine is terminated, as far as the provider says."""

    INTERRUPTED = "interrupted"  # the provider took it
    ASKED = "asked"  # we called terminate
    ITSELF = "itself"  # its own shutdown
    BOOT_FAILED = "boot_failed"  # the agent never started
    FAILED = "failed"  # hardware, or its host process died
    UNKNOWN = "unknown"


class Sighting(msgspec.Struct, frozen=True, kw_only=True):
    """A machine as the provider sees it now. Times are UTC seconds."""

    token: str
    machine: str
    provider_id: str
    state: MachineState
    cause: EndCause | None = None
    launched_at: float | None = None
    ended_at: float | None = None


class Provider(Protocol):
    """Rents machines. Every call may be repeated; none is retried inside.

    All raise NoCapacity, QuotaExceeded, Refused or Throttled, and nothing else on purpose.
    """

    name: str

    def offers(self) -> Sequence[Offer]:
        """What could be had, cheapest first."""
        ...

    def launch(self, order: LaunchOrder) -> Sighting:
        """Start a machine, or return the one that this token already started, dead or alive."""
        ...

    def describe(self, orders: Sequence[LaunchOrder]) -> Sequence[Sighting]:
        """The present state of each, in the same order. ABSENT when not listed."""
        ...

    def terminate(self, order: LaunchOrder) -> None:
        """Ask for the end of that machine. Returning means asked, not ended: `describe` tells. Idempotent;
        a machine that does not exist is no error."""
        ...

    def list_ours(self, installation: str) -> Sequence[Sighting]:
        """Every machine that carries this installation's tag and is not terminated. Nothing else, ever."""
        ...

    def interrupt(self, order: LaunchOrder, notice: float, kind: NoticeKind = "interruption") -> None:
        """A drill, with the provider's real notice to the machine: have it taken away after `notice` seconds,
        or only tell it to expect that (rebalance), or maintenance after `notice` seconds, of which nothing
        follows. Said again, it never puts an end off. Raises Refused where the provider cannot."""
        ...

    def withdraw(self, order: LaunchOrder, kind: NoticeKind = "interruption") -> None:
        """Take the drill's notice back, and what was to follow from it; none is no error. Raises Refused
        where the provider cannot."""
        ...
