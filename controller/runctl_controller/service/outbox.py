"""The outbox: what decisions want done, in order for each agent and machine, until it is done."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from runctl_controller.core.effects import Effect
from runctl_controller.core.inputs import Input
from runctl_controller.core.model import Record
from runctl_controller.service.executor import TryLater

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
    removed only in the transaction that takes the outcome into account."""

    def __init__(
        self,
        carry_out: Callable[[Record, Effect], Input | None],
        finished: Callable[[Job, Input | None], None],
        workers: int = 8,
    ) -> None:
        self._carry_out = carry_out
        self._finished = finished
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="runctl-outbox")
        self._lock = threading.Lock()
        self._lanes: dict[str, deque[Job]] = {}
        self._closing = threading.Event()

    def add(self, job: Job) -> None:
        with self._lock:
            lane = self._lanes.get(job.lane)
            if lane is not None:
                lane.append(job)
                return
            self._lanes[job.lane] = deque([job])
        self._pool.submit(self._work, job.lane)

    def _work(self, name: str) -> None:
        """Empty one lane. A job that must be tried later holds up its own lane only."""
        wait = FIRST_WAIT
        while not self._closing.is_set():
            with self._lock:
                lane = self._lanes[name]
                if not lane:
                    del self._lanes[name]
                    return
                job = lane[0]
            if self._try(job):
                wait = FIRST_WAIT
                with self._lock:
                    lane.popleft()
            else:
                self._closing.wait(wait)
                wait = min(LONGEST_WAIT, wait * 2)

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
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
