"""The folder of one local machine and the files in it.

    order.json   the plan: what to launch (600); gone when the machine has ended
    state.json   what the machine is now; stays for ever, so that a token is the same machine for ever
    host.lock    held by the host process for as long as it lives: free means dead, whatever became of its pid
    wanted.json  what the controller wants of the machine; level-triggered, read whenever `bell` rings
    bell         a FIFO (its path may be longer than a socket's)
    disk/        the machine's own disk (700); gone with the machine
    host.log, console.log   what host and agent said last; kept when the machine failed

`state.json` is written only by whoever holds `host.lock`: the launcher, which hands it to the host, or, when
that is dead, who buries the machine.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from runctl_controller.providers.local.scratch import remove_short_name
from runctl_controller.providers.port import EndCause, LaunchOrder, MachineState, Sighting

log = logging.getLogger("runctl.local")

T = TypeVar("T")

_CONSOLE_BYTES = 16 * 1024
_DEEPEST = 100


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that a host needs to know. `save_margin`: seconds beyond the hard end for the agent to save."""

    order: LaunchOrder
    agent_command: tuple[str, ...]
    save_margin: float
    secrets_file: str
    login_file: str = ""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The machine as it is now. `host_started` is the host's start time as psutil tells it."""

    token: str
    machine: str
    installation: str = ""
    state: MachineState
    cause: EndCause | None = None
    host_pid: int | None = None
    host_started: float | None = None
    launched_at: float
    ended_at: float | None = None

    def sighting(self) -> Sighting:
        over = self.state is MachineState.TERMINATED
        return Sighting(
            token=self.token,
            machine=self.machine,
            provider_id=self.machine,
            state=self.state,
            cause=self.cause if over else None,
            launched_at=self.launched_at,
            ended_at=self.ended_at,
        )


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the controller wants. Times are UTC seconds; `maintenance` as the metadata service serves it."""

    end: bool = False
    interrupt_at: float | None = None
    rebalance_at: float | None = None
    maintenance: tuple[dict[str, str], ...] = ()


class Home:
    """The folder `path` of a machine. Methods raise OSError, or msgspec.DecodeError for a damaged file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.disk = path / "disk"
        self.short_tmp_note = self.disk / "tmp-link"
        self.live_mark = path.parent.parent / "live" / path.name
        self.order_file = path / "order.json"
        self.lock_file = path / "host.lock"
        self.bell_file = path / "bell"
        self.host_log = path / "host.log"
        self.console_file = path / "console.log"
        self.agent_log = self.disk / "agent" / "agent.log"
        self.started_file = self.disk / "agent" / "started"
        self._state_file = path / "state.json"
        self._wanted_file = path / "wanted.json"

    def record(self) -> Record | None:
        return _read(self._state_file, Record)

    def write_record(self, record: Record) -> None:
        replace_file(self._state_file, msgspec.json.encode(record))

    def plan(self) -> Plan | None:
        return _read(self.order_file, Plan)

    def wanted(self) -> Wanted:
        return _read(self._wanted_file, Wanted) or Wanted()

    def want(self, change: Callable[[Wanted], Wanted]) -> None:
        """Write what is wanted, then ring. The caller keeps others from doing so at the same time."""
        replace_file(self._wanted_file, msgspec.json.encode(change(self.wanted())))
        self.ring()

    def ring(self) -> None:
        """Wake the host up. Nobody there is no error: a host reads what is wanted when it starts."""
        try:
            bell = os.open(self.bell_file, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                return
            raise
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # full: it rings already
            os.write(bell, b"!")
        os.close(bell)

    def make(self) -> int:
        """Make the folder and return the locked `host.lock`, as a descriptor to be handed to the host."""
        self.discard()  # what a launcher left that died before it wrote a record
        self.live_mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.live_mark.touch()
        self.path.mkdir(mode=0o700, parents=True)
        os.mkfifo(self.bell_file, 0o600)
        lock = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def discard(self) -> None:
        """Remove all traces. Only for a machine that never had a host."""
        shutil.rmtree(self.path, ignore_errors=True)
        self.live_mark.unlink(missing_ok=True)

    @contextlib.contextmanager
    def host_lock(self) -> Iterator[bool]:
        """Whether we hold `host.lock` now: if so, the host is dead, and nobody else buries the machine."""
        try:
            lock = os.open(self.lock_file, os.O_RDWR)
        except FileNotFoundError:  # it goes last: the record already says so
            yield True
            return
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(lock)

    def bury(self, record: Record, ended_at: float, keep_disk: bool) -> Record:
        """Remove what the machine leaves, then say that it is over. Only when no process of it is left."""
        failed = record.cause in (EndCause.FAILED, EndCause.BOOT_FAILED)
        if failed:
            self._keep_console()
        remove_short_name(self.short_tmp_note)
        if not keep_disk:
            remove_tree(self.disk)
        for path in (self.order_file, self._wanted_file, self.bell_file):
            path.unlink(missing_ok=True)
        if not failed:
            self.host_log.unlink(missing_ok=True)
        ended_at = max(ended_at, record.launched_at)  # a clock that was set back
        over = msgspec.structs.replace(record, state=MachineState.TERMINATED, ended_at=ended_at)
        self.write_record(over)
        self.live_mark.unlink(missing_ok=True)
        self.lock_file.unlink(missing_ok=True)
        return over

    def _keep_console(self) -> None:
        try:
            with open(self.agent_log, "rb") as source:
                source.seek(max(0, os.fstat(source.fileno()).st_size - _CONSOLE_BYTES))
                replace_file(self.console_file, source.read(_CONSOLE_BYTES))
        except OSError as error:
            log.info("machine.no-console machine=%s error=%s", self.path.name, error)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` against other threads and processes."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def replace_file(path: Path, data: bytes) -> None:
    """Put `data` into `path` (mode 600): a reader, also after a power cut, sees the old or the new whole."""
    spare = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(spare, path)
    except BaseException:
        spare.unlink(missing_ok=True)
        raise


def read_secrets(path: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The values of `names` out of a file that is nobody else's. Raises ValueError with a sentence that says
    what is wrong, and never holds a value."""
    if not names:
        return {}
    try:
        mode = path.stat().st_mode
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except (OSError, msgspec.DecodeError):
        raise ValueError(
            f"The secrets {', '.join(names)} are not to be had: {path} cannot be read."
        ) from None
    if stat.S_IMODE(mode) & 0o077:
        raise ValueError(f"Others may read the secrets in {path}.")
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(f"There is no secret named {', '.join(missing)} in {path}.")
    return {name: values[name] for name in names}


def remove_tree(path: Path) -> None:
    """Remove `path` and all that is in it, also what was made read-only. What cannot go is logged."""

    def again(_function: object, name: str, _error: object) -> None:
        with contextlib.suppress(OSError):
            os.chmod(os.path.dirname(name), 0o700)
            os.chmod(name, 0o700)

    for _ in range(_DEEPEST):  # each pass opens the closed folders that the one before came upon
        if not path.exists():
            return
        shutil.rmtree(path, onerror=again)
    if path.exists():
        log.warning("machine.disk-left path=%s", path)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return msgspec.json.decode(data, type=kind)
