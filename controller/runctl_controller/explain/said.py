"""Sentences, and what they are made of."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

import msgspec

from runctl_shared.messages.replies import AttemptView, MachineView, RunDetail, RunView
from runctl_shared.units import format_duration


class Part(StrEnum):
    ASKED = "asked"  # what was asked for
    HAPPENED = "happened"  # how it came to be as it is, in order
    NOW = "now"  # what is so now, and since when
    NEXT = "next"  # what is waited for, and what ends the wait
    YOU = "you"  # what the user can do


class Said(msgspec.Struct, frozen=True):
    """One sentence. `at`: the moment that it tells of (UTC seconds), if it is one."""

    part: Part
    text: str
    at: float | None = None


class Case(msgspec.Struct, frozen=True):
    """What a sentence may need: the run's record, what time it is, and how a moment is written."""

    detail: RunDetail
    now: float
    when: Callable[[float], str]

    @property
    def run(self) -> RunView:
        return self.detail.run

    @property
    def name(self) -> str:
        return self.detail.run.name

    @property
    def current(self) -> AttemptView | None:
        """The oldest open attempt: the one that trains, or is the next to."""
        return next((a for a in self.detail.attempts if a.state != "ended"), None)

    @property
    def last(self) -> AttemptView | None:
        """The attempt that ended last."""
        ended = [a for a in self.detail.attempts if a.state == "ended" and a.reason != "replaced"]
        return ended[-1] if ended else None

    def machine(self, attempt: int) -> MachineView | None:
        return next((m for m in self.detail.machines if m.attempt == attempt), None)

    def since(self, at: float | None) -> str:
        """`` since 12:03:10 (for 40s)``; nothing when that is not on record."""
        return "" if at is None else f" since {self.when(at)} (for {self.long(at)})"

    def at(self, at: float | None) -> str:
        return "" if at is None else f" at {self.when(at)}"

    def ago(self, at: float) -> str:
        return f"{self.long(at)} ago"

    def long(self, at: float) -> str:
        return format_duration(max(0.0, self.now - at))

    def until(self, at: float) -> str:
        """``at 12:05:10 (in 40s)``, or that it is overdue."""
        left = at - self.now
        return f"at {self.when(at)} ({f'in {format_duration(left)}' if left > 0 else 'due by now'})"


def times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def ended_by(text: str) -> str:
    """`text` as a sentence."""
    return text if text.endswith((".", "!", "?")) else f"{text}."
