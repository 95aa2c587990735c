"""NVIDIA's GPUs, asked through NVML. The only file that imports its binding, and only where a driver is.

NVML makes no CUDA context and takes no GPU memory. Any of its calls may hang for good once a GPU is broken,
so whoever calls does so from a thread that nothing waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from runctl_agent.hardware.kernel_log import pci_address
from runctl_shared.messages.events import Gpu

T = TypeVar("T")
LIBRARY = "libnvidia-ml.so.1"
"""Part of the driver, like /dev/nvidiactl, but also where a container has only some of the devices."""


class NoGpus(Exception):
    """There is no driver, or it says that there is nothing that it could tell. The message says which."""


class GpuLost(Exception):
    """The GPU `device` has fallen off the bus, or is otherwise out of reach (NVML_ERROR_GPU_IS_LOST)."""

    def __init__(self, device: str) -> None:
        super().__init__(f"GPU {device} is lost")
        self.device = device


@dataclass(frozen=True)
class Event:
    """`xid` None: a double-bit memory error."""

    device: str
    xid: int | None


class Nvml:
    """The driver, opened. Raises NoGpus. One thread's."""

    def __init__(self) -> None:
        import ctypes

        try:
            ctypes.CDLL(LIBRARY)
        except OSError:
            raise NoGpus("there is no NVIDIA driver") from None
        import pynvml  # 6 MB: only where it is of use

        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self.count = int(pynvml.nvmlDeviceGetCount())
        except pynvml.NVMLError as error:
            raise NoGpus(f"NVML cannot be used: {error}") from None
        self._events: Any = None
        self._names = {index: self._name(index) for index in range(self.count)}

    def sample(self, index: int) -> Gpu:
        """The GPU as it is now. Raises GpuLost."""
        nvml = self._nvml
        handle = self._ask(index, lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return Gpu(index=index, device=self.device(index))
        used = self._ask(index, lambda: nvml.nvmlDeviceGetUtilizationRates(handle))
        memory = self._ask(index, lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
        celsius = self._ask(index, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        milliwatts = self._ask(index, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        errors = self._ask(
            index,
            lambda: nvml.nvmlDeviceGetTotalEccErrors(
                handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
            ),
        )
        # The newer name of this call is missing in older drivers, not the other way round.
        slowed = self._ask(index, lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        return Gpu(
            index=index,
            device=self.device(index),
            name=self._names[index][1],
            busy_percent=None if used is None else float(used.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            celsius=None if celsius is None else float(celsius),
            watts=None if milliwatts is None else milliwatts / 1000,
            ecc_errors=errors,
            slowed_by=self._slowed_by(slowed or 0),
        )

    def device(self, index: int) -> str:
        """The GPU's PCI address, as the driver's own log has it; its number where that is unknown."""
        return self._names[index][0]

    def listen(self) -> bool:
        """Have events kept for `wait`; False where the driver has none to give."""
        nvml = self._nvml
        wanted = nvml.nvmlEventTypeXidCriticalError | nvml.nvmlEventTypeDoubleBitEccError
        try:
            self._events = nvml.nvmlEventSetCreate()
            any_ = False
            for index in range(self.count):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                offered = wanted & nvml.nvmlDeviceGetSupportedEventTypes(handle)
                if offered:
                    nvml.nvmlDeviceRegisterEvents(handle, offered, self._events)
                    any_ = True
        except nvml.NVMLError:
            return False
        return any_

    def wait(self, seconds: float) -> Event | None:
        """The next event, or None after so many seconds at the latest. Sleeps in the kernel. Raises GpuLost
        with an empty device: NVML does not say which."""
        nvml = self._nvml
        try:
            data = nvml.nvmlEventSetWait_v2(self._events, int(seconds * 1000))
        except nvml.NVMLError as error:
            if error.value == nvml.NVML_ERROR_GPU_IS_LOST:
                raise GpuLost("") from None
            if error.value == nvml.NVML_ERROR_TIMEOUT:
                return None
            raise NoGpus(f"NVML tells no more events: {error}") from None
        xid = int(data.eventData) if data.eventType == nvml.nvmlEventTypeXidCriticalError else None
        return Event(self._address(data.device) or "unknown", xid)

    def _name(self, index: int) -> tuple[str, str]:
        """Address and name of a GPU, which stay what they are."""
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
        except nvml.NVMLError:
            return str(index), ""
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        return self._address(handle) or str(index), text

    def _address(self, handle: Any) -> str:
        try:
            found = self._nvml.nvmlDeviceGetPciInfo(handle).busId
        except self._nvml.NVMLError:
            return ""
        return pci_address(found.decode("ascii", "replace") if isinstance(found, bytes) else str(found))

    def _ask(self, index: int, ask: Callable[[], T]) -> T | None:
        """An answer; None where this GPU or driver has none."""
        try:
            return ask()
        except self._nvml.NVMLError as error:
            if error.value == self._nvml.NVML_ERROR_GPU_IS_LOST:
                raise GpuLost(self.device(index)) from None
            return None

    def _slowed_by(self, reasons: int) -> str:
        nvml = self._nvml
        heat = nvml.nvmlClocksThrottleReasonSwThermalSlowdown | nvml.nvmlClocksThrottleReasonHwThermalSlowdown
        power = nvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown
        return ", ".join(word for word, bits in (("heat", heat), ("power", power)) if reasons & bits)
