"""Waiting for one's turn to lead, and taking it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from runctl_controller.core.leadership import LOOKS, Leadership, Watch, has_run_out, look
from runctl_controller.service.config import ControllerConfig
from runctl_controller.service.lock import Seat, holder
from runctl_controller.service.stuck import end_if_stuck
from runctl_controller.store.port import Superseded
from runctl_controller.store.sql.store import SqlStore, leadership_in
from runctl_shared.bus.port import Bus
from runctl_shared.clock import Clock
from runctl_shared.errors import RunctlError

log = logging.getLogger("runctl.standby")


class Led(NamedTuple):
    """The store, which only we may write to, by this leadership."""

    store: SqlStore
    leadership: Leadership


def lead(
    config: ControllerConfig, seat: Seat, bus: Bus, clock: Clock, standing_by: Callable[[], None]
) -> Led | None:
    """Become the leader: at once if the seat is ours; else stand by (`standing_by` is called then) for as
    long as it takes. None: told to end meanwhile."""
    if seat.is_ours:
        return _take_over(config, clock, None)
    mine = config.standbys / str(os.getpid())
    config.standbys.mkdir(mode=0o700, exist_ok=True)
    with closing(Seat(mine)) as listed:
        listed.take()
        log.info("standby.waits process=%d", os.getpid())
        standing_by()
        try:
            return _Turn(config, seat, bus, clock).wait()
        finally:
            mine.unlink(missing_ok=True)


def _take_over(config: ControllerConfig, clock: Clock, instead_of: Leadership | None) -> Led:
    store = SqlStore(f"sqlite:///{config.database}")
    try:
        leadership = store.take_over(
            pid=os.getpid(), now=clock.now(), seconds=config.takeover, instead_of=instead_of
        )
    except BaseException:
        store.close()
        raise
    return Led(store, leadership)


class _Turn:
    """One process's wait. The main thread's, but for those that wait for the seat."""

    def __init__(self, config: ControllerConfig, seat: Seat, bus: Bus, clock: Clock) -> None:
        self._config, self._seat, self._bus, self._clock = config, seat, bus, clock
        self._woken = threading.Event()
        self._ended = threading.Event()
        self._watch: Watch | None = None
        self._waited_for: tuple[int, int] | None = None

    def wait(self) -> Led | None:
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        found: Led | None = None
        while found is None and not self._ended.is_set():
            self._wait_for_the_seat()
            self._woken.wait(self._config.takeover / LOOKS)
            self._woken.clear()
            found = None if self._ended.is_set() else self._try()
        for number, handler in before.items():
            signal.signal(number, handler)
        return found

    def _end(self, *_: object) -> None:
        self._ended.set()
        self._woken.set()

    def _wait_for_the_seat(self) -> None:
        """Have a thread wait for the death of whoever holds it. A seat that was replaced has another
        holder."""
        now = self._seat.identity()
        if self._seat.is_ours or (now is not None and now == self._waited_for):
            return
        self._waited_for = now

        def wait() -> None:
            if not self._seat.wait():
                self._waited_for = None
            self._woken.set()

        threading.Thread(target=wait, name="runctl-seat", daemon=True).start()

    def _try(self) -> Led | None:
        """Lead, if it is our turn. What keeps us from it now may not do so the next time."""
        try:
            if self._seat.is_ours:
                return self._led(None)
            seen = self._stands_still()
            return None if seen is None or self._ended_it(seen) else self._led(seen)
        except Superseded:  # somebody was quicker, or the leader is well again
            return None
        except (RunctlError, OSError) as error:
            log.warning("standby.not-yet %s", error)
            return None

    def _stands_still(self) -> Leadership | None:
        """The leadership that has run out."""
        seen = leadership_in(self._config.database)
        self._watch = look(self._watch, seen, self._clock.monotonic()) if seen is not None else None
        return seen if has_run_out(self._watch) else None

    def _ended_it(self, seen: Leadership) -> bool:
        """A leader that was stopped in the midst of a transaction lets nobody else begin one: it is ended,
        and the seat is ours in a moment."""
        lock = self._config.lock
        return holder(lock) == seen.pid and end_if_stuck(
            seen.pid, needed(self._config), lambda: holder(lock) == seen.pid
        )

    def _led(self, instead_of: Leadership | None) -> Led | None:
        """Raises Superseded, and whatever keeps the state from being written."""
        if not self._bus.wait_connected(0.0):
            return None  # without the bus we could not lead any better
        self._watch = None  # whatever comes of it, what was seen so far is over
        led = _take_over(self._config, self._clock, instead_of)
        if instead_of is not None:
            self._seat.replace()
            log.warning("standby.takes-over silent=%.0f from process=%d", instead_of.seconds, instead_of.pid)
        return led


def needed(config: ControllerConfig) -> list[Path]:
    """Files whose locks everybody needs."""
    files = [config.database, Path(f"{config.database}-shm"), config.machines / "lock"]
    if config.bus.startswith("sqlite://"):
        bus = config.bus.removeprefix("sqlite://")
        files += [Path(bus), Path(f"{bus}-shm"), Path(f"{bus}.d")]
    return files
