"""What was told to a machine, and who had it told: the provider, or a user with a drill."""

from __future__ import annotations

from collections.abc import Iterator

from runctl_controller.explain.said import Case, Part, Said
from runctl_shared.messages.replies import StoryView

_MEANING = {
    "rebalance": "that its machine may be taken soon",
    "maintenance": "of maintenance of its machine",
}


def newest_interruption(case: Case, attempt: int, before: float | None = None) -> StoryView | None:
    for item in reversed(case.detail.story):
        late = before is not None and item.at > before
        if item.attempt == attempt and not late and _kind(item) == "interruption":
            return item
    return None


def _kind(item: StoryView) -> str:
    """Of a notice; nothing of what is none, or only takes one back."""
    return str(item.data.get("notice_kind", "interruption")) if item.kind == "notice" and item.data else ""


def drilled_by(case: Case, notice: StoryView) -> str | None:
    """The user whose drill the notice is; None: it is the provider's own."""
    story = case.detail.story
    for item in reversed(story[: story.index(notice)]):
        if item.attempt != notice.attempt:
            continue
        if item.kind == "drill_failed":
            return None
        if item.kind == "drill" and item.data.get("notice_kind", _kind(notice)) == _kind(notice):
            return None if item.data.get("withdraw") else item.actor.removeprefix("user:")
    return None


def named(case: Case, notice: StoryView) -> str:
    """`` for 12:05:10``: when what it tells of is to happen, if it says so."""
    deadline = notice.data.get("deadline")
    return f", for {case.when(notice.at + deadline)}" if isinstance(deadline, (int, float)) else ""


def hints(case: Case, attempt: int) -> Iterator[Said]:
    """Notices that take no machine; the training is asked to save all the same."""
    for item in case.detail.story:
        if item.attempt != attempt or (kind := _kind(item)) not in _MEANING:
            continue
        user = drilled_by(case, item)
        who = "The provider told it" if user is None else f"{user} had it told"
        drill = "" if user is None else " (a drill)"
        text = f"{who} {_MEANING[kind]}{case.at(item.at)}{named(case, item)}{drill}: a {kind} notice, at"
        yield Said(Part.HAPPENED, f"{text} which a training is asked to save.", item.at)
