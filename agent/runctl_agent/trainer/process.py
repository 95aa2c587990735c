"""One running training, as the agent holds it: signal it, end it, and hear once how it ended."""

from __future__ import annotations

import logging
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runctl_agent.trainer import ending, procfs, record, targets
from runctl_agent.trainer.minder import boot_id
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.trainer")

OnExit = Callable[["int | None", "int | None"], None]
"""Called once, from a thread of its own, with (code, signal) of the training: one of them, or neither when
nobody saw how it ended. By then none of its processes is left."""

_STRAYS_DIE = 10.0  # seconds


@dataclass(frozen=True)
class SignalReport:
    """Who was signalled: process ids and, for people, what they run. Empty when nobody was there."""

    pids: tuple[int, ...]
    names: tuple[str, ...]


class Trainer:
    """A training that runs, or has ended and is about to say so. Made by `start.start` and `adopt.adopt`.

    Decides nothing: whoever holds it says when to save and when to end. Thread-safe.
    """

    def __init__(
        self,
        state: Path,
        found: record.Record,
        *,
        on_exit: OnExit,
        clock: Clock,
        marks: Mapping[str, str],
        stray_wait: float = 0.0,
        minder: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """`marks` are the variables of `ending.MARKS` in the training's environment. `stray_wait`: seconds
        that other processes of the training may live on when its main process has ended."""
        self._state = state
        self._record = found
        self._on_exit = on_exit
        self._clock = clock
        self._marks = {name: marks[name] for name in ending.MARKS if name in marks}
        self._stray_wait = stray_wait
        self._minder = minder
        self._ended = threading.Event()
        # A daemon, since a training outlives its agent: nobody waits for this thread at the agent's end.
        threading.Thread(target=self._watch, name="trainer-exit", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the training's main process, which leads a session of its own."""
        return self._record.pid

    def is_running(self) -> bool:
        """Whether the main process runs."""
        return boot_id() == self._record.boot and procfs.is_alive(self._record.pid, self._record.start)

    def ask_to_save(self, signal_name: str) -> SignalReport:
        """Send the signal to the ranks, else to the innermost command (see `targets`). ValueError for a name
        that is no signal."""
        try:
            number = signal.Signals[signal_name]
        except KeyError:
            raise ValueError(f"{signal_name!r} is not a signal") from None
        if not self.is_running():
            return SignalReport((), ())
        chosen = targets.save_targets(self._record.pid, procfs.snapshot(self._record.pid))
        reached = [each for each in chosen if self._send(each, number)]
        report = SignalReport(tuple(p.pid for p in reached), tuple(targets.describe(p) for p in reached))
        log.info("trainer.signalled signal=%s pids=%s", signal_name, ",".join(map(str, report.pids)))
        return report

    def kill(self, timeout: float = 10.0) -> tuple[int, ...]:
        """SIGKILL every process of the training until none is left; returns the ids of those that even so
        outlived `timeout` seconds. The exit is reported as always."""
        return ending.end_all(self._record, self._marks, self._clock, timeout)

    def join(self, timeout: float | None = None) -> bool:
        """Whether `on_exit` has been called and returned within `timeout` seconds."""
        return self._ended.wait(timeout)

    def _send(self, process: targets.Process, number: int) -> bool:
        try:
            return procfs.send(process.pid, process.start, number)
        except PermissionError:
            log.warning("trainer.not_ours pid=%d program=%s", process.pid, targets.describe(process))
            return False

    def _watch(self) -> None:
        try:
            end = self._wait_for_end()
            if self._stray_wait > 0:
                threading.Event().wait(self._stray_wait)
            if ending.end_all(self._record, self._marks, self._clock, _STRAYS_DIE):
                log.error("trainer.strays_left pid=%d", self._record.pid)
            self._reap_minder()
        except Exception:  # whatever went wrong in here, the agent must hear that the training is over
            log.exception("trainer.watch_failed pid=%d", self._record.pid)
            end = record.Exit()
        log.info("trainer.ended pid=%d code=%s signal=%s", self._record.pid, end.code, end.signal)
        try:
            self._on_exit(end.code, end.signal)
        except Exception:
            log.exception("trainer.on_exit_failed")
        finally:
            self._ended.set()

    def _wait_for_end(self) -> record.Exit:
        record.wait_unlocked(self._state)
        end = record.read_exit(self._state)
        if end is not None:
            return end
        # The minder itself was killed, or this is another boot. The training may outlive its minder.
        if boot_id() == self._record.boot:
            procfs.wait_gone(self._record.pid, self._record.start)
        return record.Exit()

    def _reap_minder(self) -> None:
        if self._minder is not None:
            try:
                self._minder.wait(_STRAYS_DIE)  # it ends with the last orphan
            except subprocess.TimeoutExpired:
                log.error("trainer.minder_stays pid=%d", self._minder.pid)
