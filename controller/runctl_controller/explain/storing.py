"""Checkpoints that could not be stored: why, and what the user can do about it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runctl_controller.explain.said import Case, Part, Said, ended_by
from runctl_shared.messages.replies import AttemptView, StoryView

_SENTENCES = re.compile(r"(?<=\.) (?=[A-Z])")
_OVER = ("succeeded", "cancelled")


def failing(case: Case, attempt: AttemptView | None) -> StoryView | None:
    """The attempt's last try to store a checkpoint, if that failed."""
    number = None if attempt is None else attempt.attempt
    for item in reversed(case.detail.story):
        if item.attempt == number and item.kind in ("checkpoint", "checkpoint_failed"):
            return item if item.kind == "checkpoint_failed" else None
    return None


def unstored(case: Case) -> Iterator[Said]:
    """Of the attempt that is open: it trains on, but what it saves is not safe."""
    item = failing(case, case.current)
    if item is not None:
        what = f"Its newest checkpoint could not be stored{case.at(item.at)}: {item.text}"
        yield Said(Part.NOW, ended_by(what), item.at)


def why_lost(case: Case, attempt: AttemptView) -> str:
    """Why work of an attempt that has ended was lost, if that was the cause."""
    item = failing(case, attempt)
    if item is None:
        return ""
    return f"; its last checkpoint could not be stored{case.at(item.at)}: {item.text.rstrip('.')}"


def mend(case: Case) -> Iterator[Said]:
    """What to do about it; the last sentence of the reason says it, where anybody knows."""
    item = failing(case, case.current or case.last)
    if item is None or case.run.state in _OVER:
        return
    sentences = _SENTENCES.split(item.text)
    told = sentences[-1] if len(sentences) > 1 else "Mend what keeps its checkpoints from being stored."
    until = "then the checkpoint is stored by itself; until then an interruption loses the work"
    if case.current is None:
        until = "else the work of the next attempt is lost like that of the last"
    yield Said(Part.YOU, f"{ended_by(told).rstrip('.')}: {until}.")
