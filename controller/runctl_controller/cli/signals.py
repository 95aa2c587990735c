"""Signals while a run is attached: they are noted, and acted upon between two events."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Noted:
    """Signals that came and were not taken yet, oldest first."""

    def __init__(self) -> None:
        self._came: list[int] = []

    def note(self, number: int) -> None:
        self._came.append(number)

    def take(self) -> int | None:
        return self._came.pop(0) if self._came else None


@contextmanager
def noted(wake: Callable[[], None]) -> Iterator[Noted]:
    """Note SIGINT, SIGTERM and SIGHUP while the block runs, and call `wake`. One that was ignored when we
    started (nohup, a background job) stays ignored."""
    signals = Noted()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signals.note(number)
        wake()

    before = {number: signal.getsignal(number) for number in _CAUGHT}
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, on_signal)
    try:
        yield signals
    finally:
        for number in mine:
            signal.signal(number, before[number])


@contextmanager
def raising() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt while the block runs: somebody is being asked."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
