"""Commands: what the controller tells an agent. Imperative."""

from __future__ import annotations

from runctl_shared.messages.base import Body
from runctl_shared.messages.events import SaveCause
from runctl_shared.messages.fields import Count, Seconds


class StartTraining(Body, frozen=True, kw_only=True):
    """The permission to train: sent once the attempt before is known to have ended."""


class SaveNow(Body, frozen=True, kw_only=True):
    """Ask the training to save, and go on. Not more than that."""


class StopTraining(Body, frozen=True, kw_only=True):
    """End the attempt. With `save`: ask the training to save, give it `grace` seconds, then SIGKILL;
    without: SIGKILL at once. What is complete by then is stored."""

    save: bool = True
    grace: Seconds = 90.0
    cause: SaveCause = "stop"


class RenewLease(Body, frozen=True, kw_only=True):
    """Live on for `seconds` from now, even if nothing more is heard from the controller."""

    seconds: Seconds


class AcknowledgeEvents(Body, frozen=True, kw_only=True):
    """The controller has committed every event up to and including number `through`: forget them."""

    through: Count


class ResendEvents(Body, frozen=True, kw_only=True):
    """Events are missing: send everything after number `after` again."""

    after: Count


class FollowOutput(Body, frozen=True, kw_only=True):
    """Send the training's output as it comes (OutputSeen), for `seconds` from now. `offset`: from that byte
    on; None: from where you are, or from the present end."""

    seconds: Seconds
    offset: Count | None = None


COMMANDS: tuple[type[Body], ...] = (
    StartTraining, SaveNow, StopTraining, RenewLease, AcknowledgeEvents, ResendEvents, FollowOutput,
)  # fmt: skip
