"""The whole explanation."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from runctl_controller.explain.history import asked, happened
from runctl_controller.explain.said import Case, Said
from runctl_controller.explain.waits import now_and_next, you
from runctl_shared.messages.replies import RunDetail


def explain(detail: RunDetail, now: float, when: Callable[[float], str]) -> tuple[Said, ...]:
    """Why the run is in the state that it is in: what was asked, what happened, what is so now, what is
    waited for, what the user can do. `now`: UTC seconds; `when` writes a moment for whoever reads it."""
    case = Case(detail, now, when)
    return tuple(chain(asked(case), happened(case), now_and_next(case), you(case)))
