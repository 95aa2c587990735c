"""What the controller's core wants done. Stored with the decision, in one transaction; carried out after."""

from __future__ import annotations

import msgspec

from runctl_shared.messages.base import Body
from runctl_shared.messages.events import NoticeKind


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    pass


class SendCommand(Effect, frozen=True, kw_only=True):
    """`id` is the command's: the agent does it once. `expires`: seconds after which it is pointless."""

    agent: str
    attempt: int
    id: str
    body: Body
    expires: float | None = None


class Launch(Effect, frozen=True, kw_only=True):
    """Create the agent's queue, then launch the machine that is on record under this name."""

    machine: str


class Terminate(Effect, frozen=True, kw_only=True):
    """Ask the provider to end the machine. `actor`: on whose behalf."""

    machine: str
    actor: str


class Interrupt(Effect, frozen=True, kw_only=True):
    """A drill: a notice of `kind`, or, with `withdraw`, its end."""

    machine: str
    notice: float
    actor: str
    kind: NoticeKind = "interruption"
    withdraw: bool = False


class Look(Effect, frozen=True, kw_only=True):
    """Ask the provider how the machine is."""

    machine: str


class ReadEnd(Effect, frozen=True, kw_only=True):
    """Look for the attempt's final record in the checkpoint store."""

    attempt: int


class ReadCommits(Effect, frozen=True, kw_only=True):
    """Look for the attempt's newest manifest in the checkpoint store: an unheard agent may be committing."""

    attempt: int


class Deposit(Effect, frozen=True, kw_only=True):
    """Put the record, as it is by then, into the run's checkpoint store: identity outlives the disk."""


class ForgetAgent(Effect, frozen=True, kw_only=True):
    """Remove the agent's queue: its machine is gone."""

    agent: str


class SetTimer(Effect, frozen=True, kw_only=True):
    """`key` is unique within the run; a later one of the same key replaces it."""

    key: str
    at: float


class CancelTimer(Effect, frozen=True, kw_only=True):
    key: str


class RemoveRecord(Effect, frozen=True, kw_only=True):
    """Take the run off the record, in this transaction; its costs stay in the sums."""

    actor: str


class Tell(Effect, frozen=True, kw_only=True):
    """For the story and the feed. `actor`: user:NAME, lifecycle, agent or provider."""

    at: float
    attempt: int
    kind: str
    text: str
    actor: str
    data: dict[str, object] = {}


CALLS = (SendCommand, Launch, Terminate, Interrupt, Look, ReadEnd, ReadCommits, Deposit, ForgetAgent)
"""Effects that leave the process: they go through the outbox."""
