"""One decision in the making. The only place where the phase is assigned, and checked."""

from __future__ import annotations

from typing import Any

import msgspec

from runctl_agent.core.effects import Effect, Report
from runctl_agent.core.model import Rules, State
from runctl_agent.core.phases import PHASES, Phase
from runctl_shared.messages.base import Body


class Turn:
    """Mutable for the length of one decision."""

    def __init__(self, state: State, at: float) -> None:
        self.state = state
        self.at = at
        self.effects: list[Effect] = []

    @property
    def rules(self) -> Rules:
        return self.state.rules

    def change(self, phase: Phase | None = None, **changes: Any) -> None:
        """Change the state; `phase` only along its table."""
        if phase is not None:
            PHASES.check(self.state.phase, phase)
            changes["phase"] = phase
        self.state = msgspec.structs.replace(self.state, **changes)

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def report(self, body: Body) -> None:
        self.do(Report(body=body))
