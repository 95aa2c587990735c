"""The three life-cycles of the controller: runs, attempts, machines."""

from __future__ import annotations

from enum import StrEnum

from runctl_shared.states import LifeCycle


class RunState(StrEnum):
    QUEUED = "queued"
    PROVISIONING = "provisioning"
    PREPARING = "preparing"
    TRAINING = "training"
    SAVING = "saving"
    RECOVERING = "recovering"  # an attempt ended through no fault of the run; a new one is due
    PAUSED = "paused"  # by the user or by a limit: resumable
    STUCK = "stuck"  # needs a person; `why` says what for
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class AttemptState(StrEnum):
    LAUNCHING = "launching"  # on record; the provider is being asked for a machine
    BOOTING = "booting"  # there is a machine; its agent has not registered
    STAGING = "staging"  # the agent fetches what is needed
    READY = "ready"  # waits for the permission to train
    STARTING = "starting"  # permission is given: claim, restore, start
    TRAINING = "training"
    SAVING = "saving"
    ENDED = "ended"


class MachineState(StrEnum):
    LAUNCHING = "launching"  # on record before the call
    RUNNING = "running"
    UNCONFIRMED = "unconfirmed"  # it should be gone, and the provider has not said so yet
    TERMINATED = "terminated"


_R, _A, _M = RunState, AttemptState, MachineState
_CLOSED = {_R.PAUSED, _R.STUCK, _R.FAILED, _R.CANCELLED}

RUNS = LifeCycle(
    "run",
    {
        _R.QUEUED: {_R.PROVISIONING} | _CLOSED,
        _R.PROVISIONING: {_R.PREPARING, _R.RECOVERING} | _CLOSED,
        _R.PREPARING: {_R.TRAINING, _R.SAVING, _R.RECOVERING, _R.SUCCEEDED} | _CLOSED,
        _R.TRAINING: {_R.SAVING, _R.RECOVERING, _R.SUCCEEDED} | _CLOSED,
        _R.SAVING: {_R.TRAINING, _R.RECOVERING, _R.SUCCEEDED} | _CLOSED,
        _R.RECOVERING: {_R.PROVISIONING, _R.PREPARING, _R.TRAINING, _R.SUCCEEDED} | _CLOSED,
        _R.PAUSED: {_R.QUEUED, _R.CANCELLED},
        _R.STUCK: {_R.QUEUED, _R.CANCELLED},
        _R.FAILED: {_R.QUEUED, _R.CANCELLED},
        _R.SUCCEEDED: (),
        _R.CANCELLED: (),
    },
)

ATTEMPTS = LifeCycle(
    "attempt",
    {
        _A.LAUNCHING: {_A.BOOTING, _A.STAGING, _A.ENDED},
        _A.BOOTING: {_A.STAGING, _A.ENDED},
        _A.STAGING: {_A.READY, _A.ENDED},
        _A.READY: {_A.STARTING, _A.ENDED},
        _A.STARTING: {_A.TRAINING, _A.ENDED},
        _A.TRAINING: {_A.SAVING, _A.ENDED},
        _A.SAVING: {_A.TRAINING, _A.ENDED},
        _A.ENDED: (),
    },
)

MACHINES = LifeCycle(
    "machine",
    {
        _M.LAUNCHING: {_M.RUNNING, _M.UNCONFIRMED, _M.TERMINATED},
        _M.RUNNING: {_M.UNCONFIRMED, _M.TERMINATED},
        _M.UNCONFIRMED: {_M.TERMINATED},
        # Only where the provider never named it: its absence was taken for its end, and it reports.
        _M.TERMINATED: {_M.UNCONFIRMED},
    },
    believed={_M.TERMINATED},
)

OPEN_RUN = frozenset({_R.QUEUED, _R.PROVISIONING, _R.PREPARING, _R.TRAINING, _R.SAVING, _R.RECOVERING})
"""States in which runctl itself has something to do for the run."""
