"""Follows the file that a training prints into.

It looks, rather than being told: a look is one fstat, at most five a second and, once the training is silent,
one a second. A file-system event per write would wake the agent for each line of a chatty training, needs
watchdog's threads and memory, and must be backed by looking all the same, since bursts lose events.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

log = logging.getLogger("runctl.output")

_CHUNK = 256 * 1024  # bytes; the most that is held at once
_BUSY, _IDLE = 0.2, 1.0  # seconds between two looks


class Listener(Protocol):
    """Hears the output in order, each byte once, from the tail's one thread. What it raises is logged."""

    def chunk(self, offset: int, data: bytes) -> None:
        """`data` stands at `offset` in the file. It may begin and end inside a line or a character. The tail
        reads no further until this returns: a slow listener slows the tail and costs no memory."""
        ...

    def pause(self) -> None:
        """Nothing new at the last look. Called once per silence."""
        ...

    def end(self) -> None:
        """Nothing will follow. Called once."""
        ...


class OutputTail:
    """Hands what is appended to `path` to the listeners, beginning at byte `offset`.

    The file may not exist yet. One that has shrunk is read again from its beginning.
    """

    def __init__(
        self,
        path: Path,
        listeners: Sequence[Listener],
        *,
        offset: int = 0,
        busy: float = _BUSY,
        idle: float = _IDLE,
    ) -> None:
        self._path = path
        self._listeners = tuple(listeners)
        self._offset = offset
        self._busy, self._idle = busy, idle
        self._file: BinaryIO | None = None
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="output-tail", daemon=True)

    @property
    def offset(self) -> int:
        """How far it has read: where another tail would go on."""
        return self._offset

    def start(self) -> None:
        self._thread.start()

    def finish(self, timeout: float | None = None) -> bool:
        """Read what is there now to its end, tell the listeners that it was all, and stop. Call it when the
        training has ended. False when that took longer than `timeout` seconds."""
        self._finishing.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        wait = self._busy
        silent = True
        while True:
            # Asked before reading: what was printed before finish() is read.
            last = self._finishing.is_set()
            if self._read_on():
                wait, silent = self._busy, False
            else:
                wait = min(self._idle, wait * 1.5)
                if not silent:
                    self._tell(lambda listener: listener.pause())
                    silent = True
            if last:
                break
            self._finishing.wait(wait)
        self._tell(lambda listener: listener.end())
        if self._file is not None:
            self._file.close()

    def _read_on(self) -> bool:
        """Whether there was anything new."""
        grown = False
        try:
            if self._file is None:
                self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115  closed at the end of _run
            # Up to where it reached just now: a training that prints faster than this cannot keep it here.
            size = os.fstat(self._file.fileno()).st_size
            if size < self._offset:
                log.warning("output.shrunk path=%s offset=%d", self._path, self._offset)
                self._offset = 0
            while self._offset < size:
                data = os.pread(self._file.fileno(), _CHUNK, self._offset)
                if not data:
                    break
                grown = True
                self._hand_on(self._offset, data)
            return grown
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("output.unreadable path=%s reason=%s", self._path, error.strerror)
            return grown

    def _hand_on(self, offset: int, data: bytes) -> None:
        self._offset = offset + len(data)
        self._tell(lambda listener: listener.chunk(offset, data))

    def _tell(self, call: Callable[[Listener], None]) -> None:
        for listener in self._listeners:
            try:
                call(listener)
            except Exception:  # the tail must outlive a listener's mistake
                log.exception("output.listener_failed listener=%s", type(listener).__name__)
