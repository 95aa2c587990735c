"""Watches the GPUs: their errors as they come, how they are at the pace of heartbeats."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from runctl_agent.core.inputs import HardwareFaultSeen
from runctl_agent.core.xid import explain
from runctl_agent.hardware.nvml import Event, GpuLost, NoGpus, Nvml
from runctl_shared.clock import Clock
from runctl_shared.messages.events import Gpu

log = logging.getLogger("runctl.gpus")
OLD = 6
"""Samples missed in a row after which what is known of the GPUs is no longer passed on: the driver hangs."""


def xid_fault(device: str, code: int, at: float) -> HardwareFaultSeen:
    """What the core is told of an Xid, wherever it was read."""
    known = explain(code)
    return HardwareFaultSeen(
        at=at, device=device, code=code, blame=known.blame, meaning=known.meaning, gone=known.gone
    )


class GpuWatch:
    """A thread of its own, for NVML may hang; it ends by itself where there is no driver. `tell` is called
    from it. `every`: seconds between two samples."""

    def __init__(self, clock: Clock, tell: Callable[[HardwareFaultSeen], None], every: float) -> None:
        self._clock, self._tell, self._every = clock, tell, every
        self._stop = threading.Event()
        self._latest: tuple[float, tuple[Gpu, ...]] | None = None
        self._lost: set[str] = set()
        self._errors: dict[int, int] = {}
        # A daemon: a call into a driver that hangs cannot be ended.
        self._thread = threading.Thread(target=self._run, name="gpus", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def samples(self) -> tuple[Gpu, ...]:
        """The GPUs as they were a moment ago. Any thread's."""
        latest = self._latest
        if latest is None or self._clock.monotonic() - latest[0] > OLD * self._every:
            return ()
        return latest[1]

    def _run(self) -> None:
        try:
            nvml = Nvml()
        except NoGpus as reason:
            log.info("gpus.none: %s", reason)
            return
        except Exception:  # a library that is not what it seems must cost no more than its figures
            log.exception("gpus.failed")
            return
        log.info("gpus.watched count=%d", nvml.count)
        events = nvml.listen()
        try:
            while not self._stop.is_set():
                self._sample(nvml)
                events = self._wait(nvml, self._clock.monotonic() + self._every, events)
        except Exception:
            log.exception("gpus.failed")

    def _wait(self, nvml: Nvml, until: float, events: bool) -> bool:
        """Pass events on until it is time for the next sample; whether more are to be expected."""
        while events and (left := until - self._clock.monotonic()) > 0 and not self._stop.is_set():
            try:
                event = nvml.wait(left)
            except GpuLost:
                break  # which one, the next sample shows; NVML would now say so at once, again and again
            except NoGpus as reason:
                log.warning("gpus.deaf: %s", reason)
                events = False
            else:
                if event is not None:
                    self._heard(event)
        self._stop.wait(max(0.0, until - self._clock.monotonic()))
        return events

    def _heard(self, event: Event) -> None:
        now = self._clock.monotonic()
        if event.xid is not None:
            self._tell(xid_fault(event.device, event.xid, now))
        else:
            self._fault(event.device, "a double-bit memory error (ECC)")

    def _sample(self, nvml: Nvml) -> None:
        found = []
        for index in range(nvml.count):
            try:
                gpu = nvml.sample(index)
            except GpuLost as lost:
                if lost.device not in self._lost:
                    self._lost.add(lost.device)
                    self._fault(lost.device, "the driver has lost the GPU", gone=True)
                continue
            found.append(gpu)
            self._count_errors(gpu)
        self._latest = self._clock.monotonic(), tuple(found)

    def _count_errors(self, gpu: Gpu) -> None:
        if gpu.ecc_errors is None:
            return
        before = self._errors.setdefault(gpu.index, gpu.ecc_errors)
        self._errors[gpu.index] = gpu.ecc_errors
        if gpu.ecc_errors > before:
            self._fault(gpu.device, f"{gpu.ecc_errors - before} uncorrectable memory errors (ECC)")

    def _fault(self, device: str, meaning: str, gone: bool = False) -> None:
        at = self._clock.monotonic()
        self._tell(
            HardwareFaultSeen(at=at, device=device, code=None, blame="hardware", meaning=meaning, gone=gone)
        )
