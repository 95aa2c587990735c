"""The agent's life-cycle: one attempt on one machine."""

from __future__ import annotations

from enum import Enum

from runctl_shared.states import LifeCycle


class Phase(str, Enum):
    STAGING = "staging"
    READY = "ready"  # everything that needs no permission is done
    CLAIMING = "claiming"  # permission is given: take the lineage in the checkpoint store
    RESTORING = "restoring"
    STARTING = "starting"  # the command is being started
    TRAINING = "training"
    SAVING = "saving"  # the training was asked to save
    FLUSHING = "flushing"  # the training is not running; what is complete is stored
    ENDED = "ended"  # reported; the machine ends next


_P = Phase
PHASES = LifeCycle(
    "agent",
    {
        _P.STAGING: {_P.READY, _P.ENDED},
        _P.READY: {_P.CLAIMING, _P.ENDED},
        _P.CLAIMING: {_P.RESTORING, _P.ENDED},
        _P.RESTORING: {_P.STARTING, _P.ENDED},
        _P.STARTING: {_P.TRAINING, _P.FLUSHING, _P.ENDED},
        _P.TRAINING: {_P.SAVING, _P.FLUSHING},
        _P.SAVING: {_P.TRAINING, _P.FLUSHING},
        _P.FLUSHING: {_P.ENDED},
        _P.ENDED: (),
    },
)
ALIVE = frozenset({_P.TRAINING, _P.SAVING})
"""Phases in which the training's process is known to have started, and not known to have ended."""
RUNNING = ALIVE | {_P.STARTING}
"""Phases in which the training's process may exist."""
