"""The kernel's log: errors of GPUs, and whom the kernel killed for want of memory.

/dev/kmsg gives one record per read, `priority,sequence,microseconds,flags;text` (Documentation/ABI/testing/
dev-kmsg). Whoever may not read it (most containers, and ordinary users where dmesg_restrict is set) does
without.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("runctl.kernel")

_RECORD = 8192  # bytes; the kernel gives a whole record or EINVAL
_DRIFT = 0.001
"""The kernel stamps its log by a clock that nobody corrects: so much it may differ, as a share of its age."""
_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)")
_KILL = re.compile(
    r"oom-kill:constraint=(?P<constraint>\w+),.*?task_memcg=(?P<group>[^,]*),task=(?P<task>.*),pid=(?P<pid>\d+),uid="
)


@dataclass(frozen=True)
class XidLine:
    device: str
    code: int


@dataclass(frozen=True)
class KillLine:
    """`limit`: a control group's limit was reached, rather than the machine's memory used up. `pid` is as the
    machine counts, which a container does not."""

    pid: int
    task: str
    group: str
    limit: bool


def read_line(text: str) -> XidLine | KillLine | None:
    """What a line of the kernel's log says, if it is for us."""
    if found := _XID.search(text):
        return XidLine(pci_address(found[1]), int(found[2]))
    if found := _KILL.search(text):
        limit = found["constraint"] == "CONSTRAINT_MEMCG"
        return KillLine(int(found["pid"]), found["task"], found["group"], limit)
    return None


def pci_address(text: str) -> str:
    """One spelling of an address: the driver writes 0000:3B:00 in its log and 00000000:3B:00.0 in NVML."""
    domain, _, rest = text.lower().partition(":")
    if ":" not in rest:  # an old driver leaves out the domain
        domain, rest = "0", text.lower()
    return f"{int(domain or '0', 16):04x}:{rest.partition('.')[0]}"


class KernelLog:
    """Reads what is new in the kernel's log, in a thread of its own that sleeps in the kernel. `heard(line,
    at)` is called from there; `at`: monotonic seconds, by the record's own stamp."""

    def __init__(
        self, heard: Callable[[XidLine | KillLine, float], None], path: Path = Path("/dev/kmsg")
    ) -> None:
        self._heard, self._path = heard, path
        self._fd: int | None = None
        self._since: float | None = None
        self._lock = threading.Lock()  # guards reading, so that lines are heard once

    def start(self, since: float | None) -> bool:
        """From now on; with `since` (monotonic seconds), also what is there already and is not older than
        that for sure. False when the log may not be read."""
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(fd, 0, os.SEEK_END if since is None else os.SEEK_SET)
        except OSError as error:
            log.info("kernel_log.unreadable path=%s reason=%s", self._path, error.strerror)
            return False
        self._fd, self._since = fd, since
        # A daemon: nobody needs to hear its end, and it may sleep for ever.
        threading.Thread(target=self._run, args=(fd,), name="kernel-log", daemon=True).start()
        return True

    def catch_up(self) -> None:
        """Returns when everything that the log has by now has been heard."""
        if self._fd is not None:
            self._drain(self._fd)

    def _run(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        try:
            while poll.poll():
                if not self._drain(fd):
                    return
        except Exception:
            log.exception("kernel_log.failed")

    def _drain(self, fd: int) -> bool:
        """Everything that is there; False when there will be no more."""
        with self._lock:
            while True:
                try:
                    record = os.read(fd, _RECORD)
                except BlockingIOError:
                    return True
                except OSError as error:
                    if error.errno in (errno.EPIPE, errno.EINVAL):
                        continue  # overwritten before it was read, or longer than any that we know
                    raise
                if not record:
                    return False
                self._take(record)

    def _take(self, record: bytes) -> None:
        head, _, text = record.partition(b";")
        fields = head.split(b",")
        found = read_line(text.decode("utf-8", "replace")) if len(fields) >= 3 else None
        if found is None:
            return
        at = int(fields[2]) / 1e6
        if self._since is None or at >= self._since + _DRIFT * at:
            self._heard(found, at)
