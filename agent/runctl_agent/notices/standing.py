"""Which notices stand, and what of it is news. Pure.

A source is asked every second and gives the same answer until the machine is gone. What it serves is told
once, even if the named time keeps wandering; and one odd answer does not call off a notice.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from runctl_agent.notices.model import Notice, kind_of
from runctl_shared.messages.events import NoticeKind

NEARER = 2.0
"""Seconds by which a deadline must come nearer to be told again: the services round to whole seconds."""

POLLS_WITHOUT = 3
"""So many answers in a row must lack a notice before it counts as withdrawn."""


class _Standing(msgspec.Struct):
    notice: Notice
    deadline: float | None
    without: int = 0


class Standing:
    """The notices that stand. Deadlines are kept on the monotonic clock, the nearest one ever told counts."""

    def __init__(self, told: Iterable[str] = ()) -> None:
        """`told`: ids of notices that were told before there was this object."""
        self._standing: dict[str, _Standing] = {}
        for id in told:
            kind = kind_of(id)
            if kind is not None:
                self._standing[id] = _Standing(Notice(kind=kind, action="", id=id), None)

    def observe(self, kind: NoticeKind, served: list[Notice], now: float) -> list[Notice]:
        """What is news in an answer that serves the notices `served` of `kind`, at monotonic time `now`."""
        served_ids = {notice.id for notice in served}
        gone = self._gone(kind, served_ids)
        return gone + [news for notice in served if (news := self._seen(notice, now)) is not None]

    def _gone(self, kind: NoticeKind, served_ids: set[str]) -> list[Notice]:
        # A notice that another action takes the place of is over at once: there is one interruption only.
        replaced = kind == "interruption" and bool(served_ids)
        gone = []
        for known in list(self._standing.values()):
            if known.notice.kind != kind or known.notice.id in served_ids:
                continue
            known.without += 1
            if replaced or known.without >= POLLS_WITHOUT:
                del self._standing[known.notice.id]
                gone.append(msgspec.structs.replace(known.notice, deadline_in=None, change="withdrawn"))
        return gone

    def _seen(self, notice: Notice, now: float) -> Notice | None:
        deadline = None if notice.deadline_in is None else now + notice.deadline_in
        known = self._standing.get(notice.id)
        if known is None:
            self._standing[notice.id] = _Standing(notice, deadline)
            return notice
        known.without = 0
        if deadline is None or (known.deadline is not None and deadline >= known.deadline - NEARER):
            return None
        known.deadline = deadline
        return msgspec.structs.replace(notice, change="moved")
