"""Takes back, at the start, what a crash left given: tried again until it is done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from runctl_controller.access.port import Access, AccessFailed
from runctl_controller.core.tables import MachineState
from runctl_controller.service.later import Later
from runctl_controller.store.port import Store
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.access")
FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0


class Sweeper:
    """Works in a thread of its own, so that a broker that does not answer holds up nothing."""

    def __init__(self, access: Access, store: Store, clock: Clock) -> None:
        self._access, self._store = access, store
        self._later = Later(clock)

    def start(self) -> None:
        self._go(FIRST_WAIT)

    def close(self) -> None:
        self._later.close()

    def _go(self, wait: float) -> None:
        threading.Thread(target=self._sweep, args=(wait,), name="runctl-access", daemon=True).start()

    def _sweep(self, wait: float) -> None:
        try:
            self._access.sweep(living(self._store))
        except AccessFailed as error:
            log.warning("access.left-over next_try_in=%.0f reason=%s", wait, error)
            self._later.call(wait, lambda: self._go(min(LONGEST_WAIT, wait * 2)))
        except Exception:  # the store was closed: the next start sweeps
            log.info("access.not-swept", exc_info=True)


def living(store: Store) -> Callable[[str], bool]:
    """Whether a machine of that name is on record and not known to be gone."""

    def lives(agent: str) -> bool:
        with store.transaction() as tx:
            run = tx.run_of_agent(agent)
            record = tx.load(run) if run is not None else None
        machine = record.machine(agent) if record is not None else None
        return machine is not None and machine.state is not MachineState.TERMINATED

    return lives
