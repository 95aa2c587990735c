"""Takes over a training whose agent has died."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from runctl_agent.trainer import record
from runctl_agent.trainer.process import OnExit, Trainer
from runctl_shared.clock import Clock

_JUST_STARTING = 0.02  # seconds between two looks at a minder that has not written its record yet


def adopt(
    state: Path, *, marks: Mapping[str, str], on_exit: OnExit, clock: Clock, stray_wait: float = 0.0
) -> Trainer | None:
    """The training recorded in `state`; None when none was ever started there.

    One that runs is watched as if this agent had started it. One that has ended meanwhile reports its exit at
    once: the true one when its minder could write it, else (None, None). What it left behind is ended then.
    `marks` holds the RUNCTL_RUN and RUNCTL_ATTEMPT with which it was started. Raises StoreUnusable when the
    record is damaged.
    """
    state = Path(os.path.abspath(state))
    found = record.read_record(state)
    while found is None:
        # The agent may have died between starting the minder and the minder's record: that is milliseconds.
        starting = record.is_locked(state)
        found = record.read_record(state)
        if not starting:
            break
        threading.Event().wait(_JUST_STARTING)
    if found is None:
        return None
    return Trainer(state, found, on_exit=on_exit, clock=clock, marks=marks, stray_wait=stray_wait)
