"""Beside the training: everything that the machine has to say of it.

Nothing of that is worth the training: what cannot be understood is logged, and done without. An agent that
failed over it would take a training that runs for one that cannot start, or never tell that it has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from runctl_agent.core.inputs import HardwareFaultSeen, LookedAround
from runctl_agent.core.model import MemoryTrace, State
from runctl_agent.core.movement import since
from runctl_agent.hardware.gpus import GpuWatch, xid_fault
from runctl_agent.hardware.kernel_log import KernelLog, KillLine, XidLine
from runctl_agent.hardware.memory_watch import MemoryWatch
from runctl_agent.hardware.pulse import Pulse, in_words
from runctl_agent.host_metrics import HostMetrics
from runctl_shared.clock import Clock
from runctl_shared.messages.events import Gpu

log = logging.getLogger("runctl.agent")


class Sentinel:
    """The loop's thread's, but for `chunk`, `pause` and `end`, by which it listens to the output's tail.
    `tell` is called from threads of its own."""

    def __init__(
        self,
        clock: Clock,
        metrics: HostMetrics,
        pulse: Pulse,
        tell: Callable[[HardwareFaultSeen], None],
        every: float,
    ) -> None:
        self._clock, self._metrics, self._pulse, self._tell = clock, metrics, pulse, tell
        self._memory = MemoryWatch(clock)
        self._kernel = KernelLog(self._heard)
        self._gpus = GpuWatch(clock, tell, every)
        self._began = False

    def begin(self, pid: int, started_at: float | None = None) -> None:
        """A training runs: `pid` is its main process; `started_at`: when, if it was found by a restarted
        agent. Does nothing twice."""
        if not self._began:
            self._began = True
            _try("memory", lambda: self._memory.begin(pid))
            _try("kernel_log", lambda: self._kernel.start(since=started_at))
            _try("gpus", self._gpus.start)

    def stop(self) -> None:
        self._gpus.stop()

    def first_step(self) -> None:
        """It trains: whatever started it has put it into its control group by now. The next heartbeat may be
        too late to learn of that."""
        if self._began:
            _try("memory", self._memory.follow)

    def beat(self) -> None:
        """At the pace of heartbeats, after the metrics were sampled."""
        sample = self._metrics.last
        if self._began and sample is not None:
            _try("memory", lambda: self._memory.beat(sample.trainer_pids))
            self._pulse.worked(sample.trainer_cpu)

    def gpus(self) -> tuple[Gpu, ...]:
        return self._gpus.samples()

    def moved_since(self, moment: float) -> bool:
        """Whether the training printed anything after `moment` (monotonic seconds)."""
        return self._pulse.printed_at is not None and self._pulse.printed_at > moment

    def look(self, state: State, pid: int | None) -> LookedAround:
        """Whether the training shows any sign of life. Reads its folder and all of /proc once."""
        sample = self._metrics.sample(pid)
        self.beat()
        now = self._clock.monotonic()
        busy = [gpu.busy_percent for gpu in self.gpus() if gpu.busy_percent is not None]
        began = since(state)
        return LookedAround(
            at=now,
            moved_at=self._pulse.moved_at(),
            longest_silence=self._pulse.longest_silence,
            cpu=None if began is None else self._pulse.cores_since(began),
            gpu_percent=max(busy, default=None),
            processes=in_words(sample.trainer_states),
        )

    def traces(self, printed: Sequence[str]) -> tuple[MemoryTrace, ...]:
        """The training has ended: whether memory ran out, as far as that left a trace."""
        found: list[MemoryTrace] = []
        _try("kernel_log", self._kernel.catch_up)
        _try("memory", lambda: found.extend(self._memory.traces(printed)))
        return tuple(found)

    def _heard(self, line: XidLine | KillLine, at: float) -> None:
        if isinstance(line, XidLine):
            self._tell(xid_fault(line.device, line.code, at))
        else:
            self._memory.heard(line, at)

    # As a listener of the output's tail.
    def chunk(self, offset: int, data: bytes) -> None:
        self._pulse.printed()

    def pause(self) -> None:
        """Nothing to do."""

    def end(self) -> None:
        """Nothing to do."""


def _try(what: str, act: Callable[[], object]) -> None:
    try:
        act()
    except Exception:
        log.exception("%s.failed", what)
