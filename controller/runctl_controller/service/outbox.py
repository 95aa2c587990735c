"""The outbox: what decisions want done, in order for each agent and machine, until it is done."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import msgspec

from runctl_controller.core.effects import Effect
from runctl_controller.core.inputs import Input
from runctl_controller.core.model import Record
from runctl_controller.service.executor import TryLater
from runctl_controller.service.later import Later
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.outbox")
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """`outgoing`: the id of the outbox entry; `lane`: jobs of one lane are done one after the other."""

    outgoing: int
    lane: str
    record: Record
    effect: Effect


class Outbox:
    """Worker threads over lanes. `finished(job, input)` is called from them once a job is done: the entry is
    removed only in the transaction that takes the outcome into account.

    `pools` names the beginnings of lanes that have workers of their own, so that what waits for one outside
    thing (a broker that does not confirm) never keeps others (the end of a machine) from being done.
    """

    def __init__(
        self,
        carry_out: Callable[[Record, Effect], Input | None],
        finished: Callable[[Job, Input | None], None],
        clock: Clock,
        *,
        workers: int = 8,
        pools: Sequence[str] = (),
    ) -> None:
        self._carry_out = carry_out
        self._finished = finished
        self._later = Later(clock)
        self._pools = {
            name: ThreadPoolExecutor(workers, thread_name_prefix="runctl-outbox") for name in (*pools, "")
        }
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[Job]] = {}
        self._closing = False

    def add(self, job: Job) -> None:
        with self._lock:
            lane = self._lanes.get(job.lane)
            if lane is not None:
                lane.append(job)
                return
            self._lanes[job.lane] = deque([job])
        self._start(job.lane, FIRST_WAIT)

    def again(self, job: Job) -> None:
        """Its outcome could not be stored: do it once more, after a while."""
        self._later.call(LONGEST_WAIT, lambda: self.add(job))

    def _start(self, lane: str, wait: float) -> None:
        pool = next(pool for name, pool in self._pools.items() if lane.startswith(name))
        with self._lock:
            if not self._closing:
                pool.submit(self._work, lane, wait)

    def _work(self, name: str, wait: float) -> None:
        """Empty one lane. A job that must be tried later holds up its own lane only, and no worker. `wait`:
        seconds before the next try, if the first job fails."""
        while not self._closing:
            with self._lock:
                lane = self._lanes[name]
                if not lane:
                    del self._lanes[name]
                    return
                job = lane[0]
            if not self._try(job):
                self._later.call(wait, partial(self._start, name, min(LONGEST_WAIT, wait * 2)))
                return
            wait = FIRST_WAIT
            with self._lock:
                lane.popleft()

    def _try(self, job: Job) -> bool:
        try:
            outcome = self._carry_out(job.record, job.effect)
        except TryLater as reason:
            log.info("outbox.later entry=%d effect=%s: %s", job.outgoing, type(job.effect).__name__, reason)
            return False
        except Exception:  # a bug in one effect must not stop the others; it stays in the outbox
            log.exception("outbox.failed entry=%d effect=%s", job.outgoing, type(job.effect).__name__)
            return False
        self._finished(job, outcome)
        return True

    def close(self) -> None:
        """Stop after the jobs under way. What is left lies in the store."""
        with self._lock:
            self._closing = True
        self._later.close()
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)
