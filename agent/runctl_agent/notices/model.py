"""What a source of notices reports."""

from __future__ import annotations

from typing import Literal

import msgspec

from runctl_shared.messages.events import NoticeKind

Change = Literal["given", "moved", "withdrawn"]


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """Word that the machine will be taken, or that it will not after all.

    `id` is the same for as long as the notice stands. `action`: what the provider will do (terminate, stop,
    hibernate; for maintenance the code of the event). `deadline_in`: seconds from now until it does so, a
    little too few rather than too many; None where no time is named. `change`: `given` the first time,
    `moved` when the deadline has come nearer since, `withdrawn` when the provider no longer serves it.
    """

    kind: NoticeKind
    action: str
    id: str
    deadline_in: float | None = None
    change: Change = "given"
    source: str = "imds"
