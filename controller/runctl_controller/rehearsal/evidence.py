"""What the record of a run says about one interruption. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from runctl_shared.messages.replies import AttemptView, RunDetail, StoryView
from runctl_shared.spec import RunSpec


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """`before`: the attempt that was interrupted; `after`: the one that went on. The rest are what was told:
    `asked` to save because of the notice, `saved` because of it, its `ended`, and the `first` step after it.
    `incomplete`: what it left that was never whole; `shared`: files that several processes wrote at once;
    `stored`: all checkpoints of `before`. `notice`: seconds that the drill gave."""

    spec: RunSpec
    before: AttemptView | None
    after: AttemptView | None
    notice: float | None
    seen_after: float | None
    asked: StoryView | None
    saved: StoryView | None
    ended: StoryView | None
    first: StoryView | None
    incomplete: tuple[StoryView, ...]
    shared: tuple[StoryView, ...]
    stored: tuple[StoryView, ...]

    @property
    def signal(self) -> str:
        """That asked it to save."""
        said = None if self.asked is None else self.asked.data.get("signal")
        return said if isinstance(said, str) else self.spec.signal

    @property
    def signal_after(self) -> float | None:
        if self.seen_after is None or self.asked is None:
            return None
        return self.seen_after + number(self.asked, "seconds_after_cause")

    @property
    def exit_took(self) -> float | None:
        """From the signal to the training's end."""
        return known(self.ended, "exit_seconds")

    @property
    def late(self) -> StoryView | None:
        """What it was writing for the notice, and did not finish."""
        asked = (item for item in self.incomplete if known(item, "save_seconds") is not None)
        return next(asked, None)


def gather(detail: RunDetail, attempt: int) -> Evidence:
    """Of the interruption of `attempt`."""
    before = next((a for a in detail.attempts if a.attempt == attempt), None)
    after = successor(detail, attempt)
    story = [item for item in detail.story if item.attempt == attempt]
    drill, notice = _last(story, "drill"), _last(story, "notice")
    resumed = after.attempt if after is not None else None
    return Evidence(
        spec=detail.spec,
        before=before,
        after=after,
        notice=known(drill, "notice"),
        seen_after=None if drill is None or notice is None else max(0.0, notice.at - drill.at),
        asked=_last((s for s in story if s.data.get("cause") == "notice"), "save"),
        saved=_last((s for s in story if s.data.get("trigger") == "notice"), "checkpoint"),
        ended=_last(story, "ended"),
        first=_last((s for s in detail.story if s.attempt == resumed), "first_step", "not_resumed"),
        incomplete=tuple(s for s in story if s.kind == "incomplete"),
        shared=tuple(s for s in story if s.kind == "shared_file"),
        stored=tuple(s for s in story if s.kind == "checkpoint"),
    )


def successor(detail: RunDetail, number: int) -> AttemptView | None:
    """Which attempt went on after `number`: the first later one that trained (others may have failed before),
    or else the last."""
    later = [a for a in detail.attempts if a.attempt > number]
    trained = (a for a in later if a.started_at is not None)
    return next(trained, later[-1] if later else None)


def known(item: StoryView | None, key: str) -> float | None:
    """The number under `key`; None where there is none."""
    value: Any = None if item is None else item.data.get(key)
    return float(value) if isinstance(value, (int, float)) else None


def number(item: StoryView, key: str) -> float:
    """The same, 0 where there is none."""
    return known(item, key) or 0.0


def _last(story: Iterable[StoryView], *kinds: str) -> StoryView | None:
    found: Sequence[StoryView] = [item for item in story if item.kind in kinds]
    return found[-1] if found else None
