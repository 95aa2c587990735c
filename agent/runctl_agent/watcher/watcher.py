"""Watches the checkpoint directory and hands over each checkpoint once it is complete.

Events only wake the watcher up, and many at once wake it once; a scan of the directory, which costs a few
milliseconds, decides. Without events (other machines' file systems, no watches left) it scans by the clock.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from runctl_agent.watcher import mounts
from runctl_agent.watcher.inspector import Inspector
from runctl_agent.watcher.model import Busy, Candidate, Unfinished
from runctl_agent.watcher.scan import scan
from runctl_agent.watcher.taken import Taken
from runctl_agent.watcher.wakeup import Wakeup
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.watcher")

RESCAN = 5.0
"""Seconds between two scans when no event came: events get lost."""

POLL = 1.0
"""The same where there are no events at all."""

SHORTEST = 0.05
"""Seconds between two scans however many events come."""

BUSY_SHARE = 10.0
"""A scan that takes long is not followed by another one before so many times its own length."""

AGAIN = 5.0
"""Seconds after which a candidate is handed over again when the handler failed."""


class Watcher:
    """Finds complete checkpoints in `root`, which need not exist yet.

    `on_complete` is called from the watcher's thread with each version of each checkpoint, once; it should
    only put it somewhere. `quiet`: seconds without a change after which a checkpoint whose format has no sign
    of its own counts as complete. `memory`: a file in which committed versions are kept, so that after a
    restart of the agent they are not handed over again; None to keep them in memory only. `on_busy` is called
    from the same thread with what somebody was writing to at a look, and whether that is `suspicious`.

    Every method may be called from any thread.
    """

    def __init__(
        self,
        root: Path,
        on_complete: Callable[[Candidate], None],
        clock: Clock,
        *,
        quiet: float = 2.0,
        memory: Path | None = None,
        on_busy: Callable[[Sequence[Busy], bool], None] | None = None,
    ) -> None:
        self._root = root
        self._on_complete = on_complete
        self._clock = clock
        self._on_busy = on_busy

        # Held from a look until what it found is handed over: whoever asks for a look must not be told
        # "nothing" while another one's finding is still on its way.
        self._handing_over = threading.RLock()
        self._lock = threading.Lock()  # guards what follows
        self._inspector = Inspector(root, quiet, Taken(memory))
        self._place: tuple[int, int] | None = None
        self._readable = True
        self._looked_at = clock.monotonic()
        self._scan_took = 0.0

        self._awake = threading.Event()
        self._wakeup = Wakeup(root, self._awake.set)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._heard_place: tuple[int, int] | None = None  # these two are the thread's own
        self._hears = False

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Returns when the threads have ended: after the check of one candidate at most."""
        self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def scan_now(self, *, writer_gone: bool = False) -> list[Candidate]:
        """Look at once; what is complete and was not handed over before is returned instead, oldest first.

        `writer_gone`: the training is dead, so that what lies there will not become more complete: waits for
        no quiet period. Of a training that was killed, believe then only what is `signed`.
        """
        with self._handing_over:
            return self._look(woken=True, writer_gone=writer_gone)

    def mark_committed(self, version: str) -> None:
        """`version` is stored for good: it is never handed over again, also after a restart."""
        self._note("commit", lambda: self._inspector.commit(version))

    def forget(self, version: str, again_in: float = 0.0) -> None:
        """`version` was not stored: hand it over again if it is still there whole, in `again_in` seconds."""
        at = self._clock.monotonic() + again_in
        self._note("forget", lambda: self._inspector.forget(version, at))
        self._awake.set()

    def ignore(self, root_name: str) -> None:
        """What lies under this name now came out of the store: it is not to be handed over."""
        self._note("ignore", lambda: self._inspector.ignore(root_name))

    def waiting(self) -> dict[str, str]:
        """By name, why each candidate that was not handed over is not complete (yet). For people."""
        with self._lock:
            return self._inspector.waiting()

    def restless(self, root_name: str) -> str | None:
        """A sentence about what was written to again and again and never left alone; None of all else."""
        with self._lock:
            return self._inspector.restless(root_name)

    def unfinished(self) -> list[Unfinished]:
        """What was not handed over because it is not complete, but holds something."""
        with self._lock:
            return self._inspector.unfinished()

    def _note(self, what: str, do: Callable[[], None]) -> None:
        try:
            with self._lock:
                do()
        except OSError as error:
            # At worst a checkpoint is stored twice after a restart, which costs no more than time.
            log.warning("watcher.not_noted what=%s why=%s", what, error)

    def _run(self) -> None:
        delay = 0.0
        try:
            while True:
                self._awake.wait(delay)
                self._stopping.wait(self._rest())
                if self._stopping.is_set():
                    return
                woken = self._awake.is_set()
                self._awake.clear()
                delay = self._turn(woken)
        finally:
            self._wakeup.stop()

    def _turn(self, woken: bool) -> float:
        """One look, and what follows from it; the seconds to sleep if nothing happens."""
        try:
            place = _place_of(self._root)
            if place != self._heard_place:
                # First the events, then the scan: nothing falls between the two.
                self._heard_place, self._hears = place, place is not None and self._listen()
            with self._handing_over:
                for candidate in self._look(woken=woken, writer_gone=False):
                    self._hand_over(candidate)
            if self._on_busy is not None and self._inspector.busy:
                self._on_busy(self._inspector.busy, self._inspector.suspicious)
            return self._delay()
        except Exception:
            # A mistake of ours about one candidate must not end the watch over all the others.
            log.exception("watcher.failed folder=%s", self._root)
            return RESCAN

    def _listen(self) -> bool:
        return not mounts.far(self._root) and self._wakeup.start()

    def _look(self, *, woken: bool, writer_gone: bool) -> list[Candidate]:
        with self._lock:
            began = self._clock.monotonic()
            place = _place_of(self._root)
            if place != self._place:
                self._place, self._inspector.leases = place, not mounts.far(self._root)
            try:
                scanned = scan(self._root)
            except OSError as error:
                if self._readable:
                    log.warning("watcher.unreadable folder=%s why=%s", self._root, error)
                self._readable, self._inspector.next_look = False, None
                return []
            finally:
                self._looked_at = self._clock.monotonic()
                self._scan_took = self._looked_at - began
            self._readable = True
            return self._inspector.inspect(began, scanned, woken=woken, writer_gone=writer_gone)

    def _hand_over(self, candidate: Candidate) -> None:
        try:
            self._on_complete(candidate)
        except Exception:
            log.exception("watcher.handler_failed name=%r", candidate.root_name)
            self.forget(candidate.version, AGAIN)

    def _rest(self) -> float:
        """Seconds that must pass before the next scan, whatever happens."""
        with self._lock:
            wait = max(SHORTEST, BUSY_SHARE * self._scan_took)
            return max(0.0, self._looked_at + min(wait, RESCAN) - self._clock.monotonic())

    def _delay(self) -> float:
        """Seconds to sleep if nothing happens."""
        with self._lock:
            # Where there are no events, stating files may be slow: do not do it all the time.
            regular = RESCAN if self._hears else min(RESCAN, max(POLL, 50 * self._scan_took))
            due, now = self._inspector.next_look, self._clock.monotonic()
            return regular if due is None else min(regular, max(0.0, due - now))


def _place_of(folder: Path) -> tuple[int, int] | None:
    """Which directory this is; another one of the same name is another one. None when there is none."""
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino
