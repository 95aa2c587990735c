"""What other threads have for the engine's thread to do, and the means to wake it up."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from runctl_shared.bus.embedded.session import Session
from runctl_shared.bus.port import BusError

BATCH = 1000
"""Operations in one transaction, so that others get their turn at the file."""


class Operation(NamedTuple):
    """Something to do within a transaction. `run` raises BusError only before it has written anything."""

    run: Callable[[Session], object]
    future: Future[Any] | None = None
    # Done again when the transaction could not be committed: nobody waits who could do it himself.
    keep: bool = False

    def outcome(self, session: Session) -> tuple[object, Exception | None]:
        try:
            return self.run(session), None
        except (BusError, ValueError) as error:  # ValueError: text that is no Unicode, found out by SQLite
            return None, error

    def resolve(self, value: object, problem: Exception | None) -> None:
        if self.future is None:
            return
        if problem is None:
            self.future.set_result(value)
        else:
            self.future.set_exception(problem)


class Mailbox:
    """Operations in the order of posting. `check`, `post`, `post_if_open` and `shut` are for any thread."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._posted: deque[Operation] = deque()
        self._woken = False
        self._shut = False
        self.wake, self._waker = os.pipe()
        """`wake` is readable when something was posted since `hear`."""
        os.set_blocking(self.wake, False)

    def check(self) -> None:
        """Raises BusError when nothing can be posted any more."""
        if self._pid != os.getpid():  # asked without the lock, which another thread may have held at the fork
            raise BusError(
                "This connection to the bus was made by the parent process.", "Open one of your own."
            )
        if self._shut:
            raise BusError("This connection to the bus is closed.", "Open another one.")

    def post(self, operation: Operation) -> None:
        """Raises BusError like `check`."""
        self.check()
        with self._lock:
            self.check()
            self._post(operation)

    def post_if_open(self, operation: Operation) -> None:
        """For what has become pointless once the connection is closed."""
        with contextlib.suppress(BusError):
            self.post(operation)

    def shut(self) -> None:
        """Take no more; what is in it stays. Idempotent."""
        if self._pid == os.getpid():
            with self._lock:
                if not self._shut:
                    self._shut = True
                    self._wake()

    @property
    def is_shut(self) -> bool:
        return self._shut

    @property
    def is_empty(self) -> bool:
        return not self._posted

    def _post(self, operation: Operation) -> None:
        self._posted.append(operation)
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            os.write(self._waker, b"!")

    # ------------------------------------------------------------ the engine's thread

    def hear(self) -> None:
        """Be woken up again by the next post."""
        with self._lock:
            self._woken = False
            drain(self.wake)

    def take(self) -> list[Operation]:
        """The next batch, without what its poster has cancelled."""
        with self._lock:
            taken = [self._posted.popleft() for _ in range(min(BATCH, len(self._posted)))]
        return [
            operation
            for operation in taken
            if operation.future is None
            or operation.future.running()  # it has been put back before
            or operation.future.set_running_or_notify_cancel()
        ]

    def put_back(self, operations: list[Operation], problem: Exception) -> None:
        """The transaction failed: keep what must be done, report the rest as failed."""
        with self._lock:
            self._posted.extendleft(operation for operation in reversed(operations) if operation.keep)
        for operation in operations:
            if not operation.keep:
                operation.resolve(None, problem)

    def refuse(self, problem: Exception) -> None:
        """Report all that waits as failed."""
        while operations := self.take():
            for operation in operations:
                operation.resolve(None, problem)

    def close(self, problem: Exception) -> None:
        self.shut()
        self.refuse(problem)
        with self._lock:
            os.close(self.wake)
            os.close(self._waker)


def drain(descriptor: int) -> None:
    """Read what has been rung, once or many times."""
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 65536):
            pass
