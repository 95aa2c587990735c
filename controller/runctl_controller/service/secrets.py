"""Secrets of local runs are removed once nobody needs them any more."""

from __future__ import annotations

import logging
from pathlib import Path

from runctl_controller.client.secrets import remove_secrets, secrets_file
from runctl_controller.core.model import Record
from runctl_controller.core.tables import RUNS
from runctl_controller.store.port import Store
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.secrets")
UNCLAIMED = 3600.0
"""Seconds after which secrets of a run that was never submitted are removed."""


class Secrets:
    """The secrets of the runs in `state`. A run that can be resumed keeps its own."""

    def __init__(self, state: Path, clock: Clock) -> None:
        self._state, self._clock = state, clock

    def changed(self, record: Record) -> None:
        """The run changed: is it over for good?"""
        if record.run.spec.secrets and RUNS.is_final(record.run.state):
            self._remove(record.run.id)

    def sweep(self, store: Store) -> None:
        """What a crash left behind."""
        for path in secrets_file(self._state, "").parent.glob("*.json"):
            with store.transaction() as tx:
                record = tx.load(path.stem)
            if record is not None:
                self.changed(record)
            elif self._clock.now() - path.stat().st_mtime > UNCLAIMED:
                self._remove(path.stem)

    def _remove(self, run: str) -> None:
        try:
            remove_secrets(self._state, run)
        except OSError as error:
            log.warning("secrets.left run=%s error=%s", run, error)
