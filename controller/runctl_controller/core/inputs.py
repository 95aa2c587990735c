"""What the controller's core is told. Each input carries its own time (`at`, UTC seconds)."""

from __future__ import annotations

import msgspec

from runctl_controller.providers.port import Offer, Sighting
from runctl_shared.messages.base import Body
from runctl_shared.messages.events import AttemptEnded


class Input(msgspec.Struct, frozen=True, kw_only=True):
    at: float


class Requested(Input, frozen=True, kw_only=True):
    """A client asks. `actor` is who, for the record; `offer` what a machine would be, for a new run."""

    actor: str
    body: Body


class Heard(Input, frozen=True, kw_only=True):
    """A numbered event of an agent. `agent` is known by the delivery, never by the body. `sent`: when it was
    put on record, by the agent's own clock (0: it does not say)."""

    agent: str
    sequence: int
    body: Body
    sent: float = 0.0


class WentSilent(Input, frozen=True, kw_only=True):
    """Nothing was heard of the agent since `heard_at`. That is silence, not death."""

    agent: str
    heard_at: float


class HeardAgain(Input, frozen=True, kw_only=True):
    agent: str


class LaunchAnswered(Input, frozen=True, kw_only=True):
    """The provider answered a launch: with the machine, or with an error (its class's `code`)."""

    machine: str
    sighting: Sighting | None = None
    error: str | None = None
    detail: str = ""


class TerminateAnswered(Input, frozen=True, kw_only=True):
    machine: str
    error: str | None = None
    detail: str = ""


class InterruptAnswered(Input, frozen=True, kw_only=True):
    machine: str
    error: str | None = None
    detail: str = ""


class Seen(Input, frozen=True, kw_only=True):
    """The provider described a machine; `sighting` is None when it could not be asked."""

    machine: str
    sighting: Sighting | None
    detail: str = ""


class EndRead(Input, frozen=True, kw_only=True):
    """The final record of an attempt was looked for in the checkpoint store. `error`: the store could not be
    asked, so nothing is known."""

    attempt: int
    record: AttemptEnded | None = None
    error: str | None = None


class CommitsRead(Input, frozen=True, kw_only=True):
    """The newest manifest that the attempt has in the checkpoint store (None: none). `error`: the store
    could not be asked, so nothing is known."""

    attempt: int
    newest: str | None = None
    error: str | None = None


class Imported(Input, frozen=True, kw_only=True):
    """The record comes out of a checkpoint store: see that what it says is looked after. `url`: the store's;
    `actor`: who asked for it."""

    actor: str
    url: str


class TimerFired(Input, frozen=True, kw_only=True):
    key: str


class Woke(Input, frozen=True, kw_only=True):
    """The controller started, or its clock jumped (a laptop that slept): machines are looked at before any
    silence is judged."""


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision may need to know besides the run's record: where agents find the bus, what offers there
    are, and the intervals in use. Changes only with the configuration."""

    installation: str
    bus: str
    offers: tuple[Offer, ...]
    heartbeat: float = 10.0
    lease: float = 900.0
    notice_poll: float = 1.0
    kill_margin: float = 3.0
    boot_limit: float = 120.0
    longest_life: float = 30 * 86400.0
    look: float = 1.0
