"""What a source of notices reports."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

from runctl_shared.messages.events import NoticeKind

Change = Literal["given", "moved", "withdrawn"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Word that the machine will be taken, or that it will not after all.

    `id` is the same for as long as the notice stands, and begins with its kind. `action`: what the provider
    will do (terminate, stop, hibernate; for maintenance the code of the event). `deadline_in`: seconds from
    now until it does so, a little too few rather than too many; None where no time is named. `change`:
    `given` the first time, `moved` when the deadline has come nearer since, `withdrawn` when the provider no
    longer serves it.
    """

    kind: NoticeKind
    action: str
    id: str
    deadline_in: float | None = None
    change: Change = "given"
    source: str = "imds"


def kind_of(id: str) -> NoticeKind | None:
    """The kind of the notice `id`; None when there is no such kind."""
    word = id.partition("-")[0]
    kinds: tuple[NoticeKind, ...] = get_args(NoticeKind)
    return next((kind for kind in kinds if kind == word), None)
