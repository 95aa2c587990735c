"""What ends a local machine, and when to start its agent. Pure: the host tells it what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runctl_controller.providers.port import EndCause

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 30.0
_STEADY = 60.0  # an agent that lived this long begins again with the first pause
MOST_CRASHES = 10  # so many in a row, none of them after a steady minute, and the machine is given up


@dataclass
class Watch:
    """All times are monotonic seconds; None means never.

    `boot_by` is when the agent must have started, `end_by` the hard end with the margin for saving,
    `taken_at` when the provider takes the machine, `start_at` when to start the agent (again).
    """

    boot_by: float | None
    end_by: float
    start_at: float | None
    taken_at: float | None = None
    asked: bool = False
    powered_off: bool = False
    broken: bool = False
    unbootable: bool = False
    _began: float = 0.0
    _pause: float = 0.0
    _crashes: int = 0

    def verdict(self, now: float, started: Callable[[], bool]) -> EndCause | None:
        """Why the machine ends now; None while it goes on. `started` tells whether the agent ever started."""
        if self.asked:
            return EndCause.ASKED
        if self.powered_off:
            return EndCause.ITSELF
        if self.broken:
            return EndCause.FAILED
        if self.taken_at is not None and now >= self.taken_at:
            return EndCause.INTERRUPTED
        if now >= self.end_by:
            return EndCause.ITSELF
        if self.unbootable:
            return EndCause.BOOT_FAILED
        if self.boot_by is not None and now >= self.boot_by:
            if not started():
                return EndCause.BOOT_FAILED
            self.boot_by = None
        return None

    def next_look(self) -> float:
        """When something is due next."""
        times = (self.boot_by, self.end_by, self.taken_at, self.start_at)
        return min(time for time in times if time is not None)

    def agent_due(self, now: float) -> bool:
        return self.start_at is not None and now >= self.start_at

    def agent_began(self, now: float) -> None:
        self._began, self.start_at = now, None

    def agent_ended(self, now: float, exit_code: int) -> None:
        """Exit code 0 says that the attempt is over: the machine shuts down. Any other is a crash, and the
        agent is started again after a pause that grows while it keeps crashing. One that cannot stay up
        serves nobody: without it there is no lease, no hard end and no saving in time."""
        if exit_code == 0:
            self.powered_off = True
            return
        if now - self._began >= _STEADY:
            self._pause, self._crashes = 0.0, 0
        self._crashes += 1
        self.broken = self.broken or self._crashes >= MOST_CRASHES
        self._pause = min(LONGEST_PAUSE, max(FIRST_PAUSE, 2 * self._pause))
        self.start_at = now + self._pause
