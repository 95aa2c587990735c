"""What the agent's core wants done, in this order, after the state is stored."""

from __future__ import annotations

import msgspec

from runctl_shared.messages.base import Body
from runctl_shared.messages.events import AttemptEnded


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Report(Effect, frozen=True, kw_only=True):
    """An event for the controller: numbered and stored in the same transaction as the state."""

    body: Body


class Forget(Effect, frozen=True, kw_only=True):
    """The controller has committed the events up to this number."""

    through: int


class SendAgain(Effect, frozen=True, kw_only=True):
    after: int


class Follow(Effect, frozen=True, kw_only=True):
    seconds: float
    offset: int | None


class Stage(Effect, frozen=True, kw_only=True):
    pass


class Claim(Effect, frozen=True, kw_only=True):
    """Conditional put of attempts/<n>, naming the newest eligible verified checkpoint."""


class Restore(Effect, frozen=True, kw_only=True):
    """Restore the newest eligible checkpoint that verifies."""


class Train(Effect, frozen=True, kw_only=True):
    resume_path: str | None
    restored: str | None


class AskToSave(Effect, frozen=True, kw_only=True):
    signal: str


class Kill(Effect, frozen=True, kw_only=True):
    """SIGKILL the whole of the training; TrainingExited follows."""


class LookAround(Effect, frozen=True, kw_only=True):
    """Look whether the training shows any sign of life, then say LookedAround."""


class Flush(Effect, frozen=True, kw_only=True):
    """The writer is gone: look once more, store what is complete, then say Flushed."""


class WriteEnd(Effect, frozen=True, kw_only=True):
    record: AttemptEnded


class Drain(Effect, frozen=True, kw_only=True):
    """Say Drained once the controller has acknowledged everything."""


class ShutDown(Effect, frozen=True, kw_only=True):
    """End the machine."""
