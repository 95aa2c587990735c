"""The thread that does all work of one connection to the embedded bus.

It sleeps until a doorbell rings, something is posted, or a process that it watches dies. Then one
transaction carries out everything that was posted and takes what has arrived: many messages, one commit.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import select
import sqlite3
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from runctl_shared.bus.embedded.session import Session
from runctl_shared.bus.embedded.subscription import Subscription
from runctl_shared.bus.embedded.trouble import explain, passes
from runctl_shared.bus.port import BusError, BusUnavailable, Delivery
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.bus")

TICK = 5.0
"""Seconds between looks around while somebody listens, in case a doorbell was removed or a wake-up was lost."""
BATCH = 1000
"""Operations in one transaction, so that others get their turn at the file."""
_LONGEST_PAUSE = 5.0
_random = secrets.SystemRandom()


class Operation(NamedTuple):
    """Something to do within a transaction. `run` raises BusError only before it has written anything."""

    run: Callable[[Session], object]
    future: Future[Any] | None = None
    # Done again when the transaction could not be committed: nobody waits who could do it himself.
    keep: bool = False


class Engine:
    """`on_open` is called within a transaction after each opening of the file."""

    def __init__(self, path: str, clock: Clock, on_open: Callable[[Session], None]) -> None:
        self._path = path
        self._clock = clock
        self._on_open = on_open
        self.connected = threading.Event()
        # Guarded by the lock: posted from any thread.
        self._lock = threading.Lock()
        self._posted: deque[Operation] = deque()
        self._woken = False
        self._closed = False
        self._subscriptions: list[Subscription] = []
        # The thread's own.
        self._session: Session | None = None
        self._watched: dict[int, str] = {}
        self._failures = 0
        self._again = False
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._main, name="runctl-bus", daemon=True)
        _ENGINES.add(self)
        self._thread.start()

    # ------------------------------------------------------------ from any thread

    def check(self) -> None:
        """Raises BusError when nothing can be posted any more."""
        if self._closed:
            raise BusError("This connection to the bus is closed.", "Open another one.")
        if self._pid != os.getpid():
            raise BusError(
                "This connection to the bus was made by the parent process.", "Open one of your own."
            )

    def post(
        self, run: Callable[[Session], object], future: Future[Any] | None = None, keep: bool = False
    ) -> None:
        with self._lock:
            self.check()
            self._posted.append(Operation(run, future, keep))
            self._wake()

    def settle(self, run: Callable[[Session], object]) -> None:
        """Post what nobody waits for; dropped after `close`, when everything is given back anyway."""
        with self._lock:
            if not self._closed and self._pid == os.getpid():
                self._posted.append(Operation(run, None, True))
                self._wake()

    def call(self, run: Callable[[Session], object]) -> Any:
        """Post it and wait for what it returns. Raises what it raises, or why it could not be done."""
        if threading.current_thread() is self._thread:
            raise BusError("A handler must not wait for the bus.", "Hand the delivery to another thread.")
        future: Future[Any] = Future()
        self.post(run, future)
        return future.result()

    def listen(self, subscription: Subscription) -> None:
        """Put it in place; now, or if that cannot be done now, with the next opening of the file."""
        with self._lock:
            self.check()
            self._subscriptions.append(subscription)
        try:
            self.call(subscription.place)
        except BusUnavailable as error:
            log.warning("bus.subscribed_later path=%s error=%s", self._path, error)

    def unlisten(self, subscription: Subscription) -> None:
        """Returns when it is out of the way; from a handler, when that is certain to happen next."""
        with self._lock:
            if self._closed or subscription not in self._subscriptions:
                return
            self._subscriptions.remove(subscription)
        if self.is_own_thread():
            self.settle(subscription.displace)
            return
        with contextlib.suppress(BusError):  # then the connection is lost, and with it all that it held
            self.call(subscription.displace)

    def closed(self) -> bool:
        return self._closed

    def is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def close(self, timeout: float) -> None:
        with self._lock:
            first, self._closed = not self._closed, True
            if first and self._pid == os.getpid():
                self._wake()
        if self._pid == os.getpid() and not self.is_own_thread():
            self._thread.join(timeout)

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            os.write(self._wake_write, b"!")

    # ------------------------------------------------------------ the thread

    def _main(self) -> None:
        try:
            while True:
                last = self._closed  # read first: what was posted before `close` is still carried out
                self._turn()
                if last and (self._failures or not self._posted):
                    break
                self._wait(0 if last or self._again else self._pause())
            self._leave()
        except BaseException:
            log.exception("bus.thread_failed path=%s", self._path)
            raise
        finally:
            self._end()

    def _turn(self) -> None:
        try:
            if self._session is not None and not self._session.intact():
                log.warning("bus.replaced path=%s", self._path)
                self._drop_session()
            self._round(self._session or self._open())
            self._failures = 0
        except (sqlite3.Error, OSError, BusError) as error:
            self._failures += 1
            self._trouble(error)

    def _open(self) -> Session:
        session = Session(self._path)
        try:
            with session.transaction():
                session.bury()
                self._on_open(session)
                for subscription in self._listening():
                    subscription.place(session)
                bells = session.bells()
        except BaseException:
            session.abandon()
            raise
        session.ring(bells)
        self._session = session
        self.connected.set()
        return session

    def _round(self, session: Session) -> None:
        operations = self._take()
        waiting: set[str] = set()
        arrived: list[tuple[Subscription, list[Delivery]]] = []
        try:
            with session.transaction() as store:
                session.bury()
                outcomes = [_outcome(operation, session) for operation in operations]
                store.expire(self._clock.now())
                for subscription in self._listening():
                    ahead = subscription.take(session, arrived)
                    if ahead is not None:
                        waiting.add(ahead)
                bells = session.bells()
        except BaseException as error:
            # What was taken is not ours, then; the session goes, and with it what the subscriptions think they hold.
            self._not_done(operations, error)
            raise
        for operation, (value, problem) in zip(operations, outcomes, strict=True):
            _resolve(operation, value, problem)
        session.ring(bells)
        self._watched = session.watch(waiting)
        self._again = bool(session.suspects) or bool(self._posted)
        for subscription, deliveries in arrived:
            subscription.hand_out(deliveries)

    def _listening(self) -> list[Subscription]:
        with self._lock:
            return [] if self._closed else list(self._subscriptions)

    def _take(self) -> list[Operation]:
        with self._lock:
            count = min(BATCH, len(self._posted))
            taken = [self._posted.popleft() for _ in range(count)]
        return [
            operation
            for operation in taken
            if operation.future is None
            or operation.future.running()  # put back by _not_done
            or operation.future.set_running_or_notify_cancel()
        ]

    def _not_done(self, operations: list[Operation], error: BaseException) -> None:
        problem = (
            explain(error, self._path) if isinstance(error, Exception) else BusUnavailable("Interrupted.")
        )
        with self._lock:
            self._posted.extendleft(operation for operation in reversed(operations) if operation.keep)
        for operation in operations:
            if not operation.keep:
                _resolve(operation, None, problem)

    def _trouble(self, error: Exception) -> None:
        log.warning("bus.trouble path=%s error=%s", self._path, error)
        problem = explain(error, self._path)
        self._again = False
        if self._session is not None and not passes(error):
            self._drop_session()
        if self._session is None:
            while operations := self._take():
                for operation in operations:
                    _resolve(operation, None, problem)

    def _drop_session(self) -> None:
        session, self._session = self._session, None
        self.connected.clear()
        self._watched = {}
        with self._lock:
            for subscription in self._subscriptions:
                subscription.lost()
        if session is not None:
            session.abandon()

    def _pause(self) -> float | None:
        if self._failures:
            return _random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2 ** min(self._failures, 10)))
        return TICK if self._subscriptions else None

    def _wait(self, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self._session is not None:
            poll.register(self._session.bell, select.POLLIN)
        for bell in self._watched:
            poll.register(bell, 0)  # POLLERR is always told
        events = poll.poll(None if seconds is None else seconds * 1000)
        with self._lock:
            self._woken = False
            _drain(self._wake_read)
        if self._session is None:
            return
        _drain(self._session.bell)
        self._session.suspects |= {self._watched[fd] for fd, _ in events if fd in self._watched}
        if not events and not self._failures and not self._again:
            self._look_around(self._session)

    def _look_around(self, session: Session) -> None:
        try:
            session.suspect_all()
        except sqlite3.Error as error:
            self._trouble(error)

    def _leave(self) -> None:
        if self._session is None:
            return
        try:
            self._session.leave()
        except (sqlite3.Error, OSError) as error:
            log.warning("bus.leave_failed path=%s error=%s", self._path, error)

    def _end(self) -> None:
        self._drop_session()
        with self._lock:
            self._closed = True
            left, self._posted = self._posted, deque()
        for operation in left:
            _resolve(operation, None, BusUnavailable("The bus was closed before the message was stored."))
        os.close(self._wake_read)
        os.close(self._wake_write)

    def forked(self) -> None:
        """In a child process, which has no thread of ours: let go of the bell, else our death goes unnoticed."""
        if self._session is not None:
            os.close(self._session.bell)


def _outcome(operation: Operation, session: Session) -> tuple[object, Exception | None]:
    try:
        return operation.run(session), None
    except (BusError, ValueError) as error:  # ValueError: text that is no Unicode, found out by SQLite
        return None, error


def _resolve(operation: Operation, value: object, problem: Exception | None) -> None:
    if operation.future is None:
        return
    if problem is None:
        operation.future.set_result(value)
    else:
        operation.future.set_exception(problem)


def _drain(descriptor: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while os.read(descriptor, 65536):
            pass


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _in_the_child() -> None:
    for engine in list(_ENGINES):
        engine.forked()


os.register_at_fork(after_in_child=_in_the_child)
