"""The thread that does all work of one connection to the embedded bus.

It sleeps until a doorbell rings, something is posted, or a process that it watches dies. Then one
transaction carries out everything that was posted and takes what has arrived: many messages, one commit.
"""

from __future__ import annotations

import logging
import os
import secrets
import select
import sqlite3
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

from runctl_shared.bus.embedded.mailbox import Mailbox, Operation, drain
from runctl_shared.bus.embedded.session import Session
from runctl_shared.bus.embedded.subscription import Held, Subscription
from runctl_shared.bus.embedded.trouble import explain, passes
from runctl_shared.bus.port import BusError, BusUnavailable
from runctl_shared.clock import Clock

log = logging.getLogger("runctl.bus")

TICK = 5.0
"""Seconds between looks around while somebody listens, should a doorbell have been removed by hand."""
_LONGEST_PAUSE = 5.0
_random = secrets.SystemRandom()


class Owner(Protocol):
    """Whom the engine works for; called on its thread."""

    def opened(self, session: Session) -> None:
        """Within the first transaction after the file was opened, for the first time or again."""
        ...

    def lost(self, problem: BusError) -> None:
        """Whatever was held or awaited through the file as it was open is void."""
        ...


class Engine:
    def __init__(self, path: str, clock: Clock, owner: Owner) -> None:
        self._path = path
        self._clock = clock
        self._owner = owner
        self.connected = threading.Event()
        self.mailbox = Mailbox()
        self._lock = threading.Lock()
        self._subscriptions: list[Subscription] = []  # guarded by the lock
        # The thread's own:
        self._session: Session | None = None
        self._watched: dict[int, str] = {}
        self._failures = 0
        self._again = False
        self._thread = threading.Thread(target=self._main, name="runctl-bus", daemon=True)
        _ENGINES.add(self)
        self._thread.start()

    # ------------------------------------------------------------ from any thread

    def post(self, run: Callable[[Session], object], future: Future[Any] | None = None) -> None:
        """Raises BusError when closed; what else goes wrong is told by the future."""
        self.mailbox.post(Operation(run, future))

    def settle(self, run: Callable[[Session], object]) -> None:
        """Post what nobody waits for; dropped after `close`, when everything is given back anyway."""
        self.mailbox.post_if_open(Operation(run, keep=True))

    def call(self, run: Callable[[Session], object], *, keep: bool = False) -> Any:
        """Post it and wait for what it returns. Raises what it raises, or why it could not be done."""
        if self._is_own_thread():
            raise BusError("A handler must not wait for the bus.", "Hand the delivery to another thread.")
        future: Future[Any] = Future()
        self.mailbox.post(Operation(run, future, keep))
        return future.result()

    def listen(self, subscription: Subscription) -> None:
        """Returns when it is in place, or cannot be put there now (then it will be as soon as it can be)."""
        self.mailbox.check()
        with self._lock:
            self._subscriptions.append(subscription)
        try:
            self.call(lambda session: None)  # each transaction puts in place what is not
        except BusError as error:
            self.mailbox.check()
            log.warning("bus.subscribed_later path=%s error=%s", self._path, error)

    def unlisten(self, subscription: Subscription) -> None:
        """Returns when it is out of the way. Idempotent."""
        with self._lock:
            if subscription not in self._subscriptions:
                return
            self._subscriptions.remove(subscription)
        if self._is_own_thread():  # a handler: it is out of the way when the handler has returned
            self.settle(subscription.displace)
            return
        try:
            self.call(subscription.displace, keep=True)
        except BusError as error:  # the connection is lost, and with it all that it held
            log.debug("bus.unsubscribed_without path=%s error=%s", self._path, error)

    def close(self, timeout: float) -> None:
        self.mailbox.shut()
        if not self._is_own_thread():
            self._thread.join(timeout)

    def _is_own_thread(self) -> bool:
        return threading.current_thread() is self._thread

    # ------------------------------------------------------------ the thread

    def _main(self) -> None:
        try:
            while True:
                last = self.mailbox.is_shut  # read first: what was posted before is still carried out
                self._turn()
                if last and (self.mailbox.is_empty or self._failures):
                    break
                self._wait(0 if last or self._again else self._pause())
            self._leave()
        except BaseException:
            log.exception("bus.thread_failed path=%s", self._path)
            raise
        finally:
            problem = BusUnavailable("The bus was closed before this was done.", "Send it again.")
            self._drop_session(problem)
            self.mailbox.close(problem)

    def _turn(self) -> None:
        try:
            if self._session is not None and not self._session.intact():
                self._drop_session(BusUnavailable(f"The bus file {self._path} was removed or replaced."))
            if self._session is None:
                self._session = self._open()
            self._round(self._session)
            self._failures = 0
        except (sqlite3.Error, OSError, BusError) as error:
            self._failures += 1
            self._again = False
            problem = explain(error, self._path)
            log.log(
                logging.WARNING if self._failures == 1 else logging.DEBUG, "bus.trouble error=%s", problem
            )
            if not passes(error):
                self._drop_session(problem)
            if self._session is None:
                self.mailbox.refuse(problem)

    def _open(self) -> Session:
        session = Session(self._path)
        try:
            with session.transaction():
                self._owner.opened(session)
        except BaseException:
            session.abandon()
            raise
        self.connected.set()
        return session

    def _round(self, session: Session) -> None:
        operations = self.mailbox.take()
        try:
            with session.transaction() as store:
                session.bury()
                outcomes = [operation.outcome(session) for operation in operations]
                store.expire(self._clock.now())
                ahead, arrived = self._receive(session)
                bells = session.bells()
        except BaseException as error:
            self.mailbox.put_back(operations, _told(error, self._path))
            raise
        for operation, (value, problem) in zip(operations, outcomes, strict=True):
            operation.resolve(value, problem)
        session.ring(bells)
        self._watched = session.watch(ahead)
        self._again = bool(session.suspects) or not self.mailbox.is_empty
        for subscription, deliveries in arrived:
            for held in deliveries:
                if not self.mailbox.is_shut:
                    subscription.hand_out(held)

    def _receive(self, session: Session) -> tuple[set[str], list[tuple[Subscription, list[Held]]]]:
        """Who is ahead of us where we listen, and what has arrived where we are first."""
        with self._lock:
            listening = [] if self.mailbox.is_shut else list(self._subscriptions)
        ahead: set[str] = set()
        arrived = []
        for subscription in listening:
            subscription.place(session)
            other = session.ahead_of(subscription.consumer, subscription.queue)
            if other is None:
                arrived.append((subscription, subscription.take(session)))
            else:
                ahead.add(other)
        return ahead - {session.link}, arrived

    def _drop_session(self, problem: BusError) -> None:
        session, self._session = self._session, None
        self.connected.clear()
        self._watched = {}
        with self._lock:
            listening = list(self._subscriptions)
        for subscription in listening:
            subscription.lost()
        self._owner.lost(problem)
        if session is not None:
            session.abandon()

    def _pause(self) -> float | None:
        if self._failures:
            return _random.uniform(0, min(_LONGEST_PAUSE, 0.1 * 2 ** min(self._failures, 10)))
        with self._lock:
            return TICK if self._subscriptions else None

    def _wait(self, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self.mailbox.wake, select.POLLIN)
        if self._session is not None:
            poll.register(self._session.bell, select.POLLIN)
        for bell in self._watched:
            poll.register(bell, 0)  # POLLERR is told in any case
        events = poll.poll(None if seconds is None else seconds * 1000)
        self.mailbox.hear()
        if self._session is not None:
            drain(self._session.bell)
            self._session.suspects |= {self._watched[fd] for fd, _ in events if fd in self._watched}
            self._session.look_around |= not events and bool(seconds)

    def _leave(self) -> None:
        try:
            if self._session is not None:
                self._session.leave()
        except (sqlite3.Error, OSError) as error:
            log.warning("bus.leave_failed path=%s error=%s", self._path, error)

    def forked(self) -> None:
        """In a child process, which has no thread of ours: let go of the bell, or no death is noticed."""
        if self._session is not None:
            os.close(self._session.bell)


def _told(error: BaseException, path: str) -> BusError:
    return (
        explain(error, path) if isinstance(error, Exception) else BusUnavailable("The bus was interrupted.")
    )


_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()


def _in_the_child() -> None:
    for engine in list(_ENGINES):
        engine.forked()


os.register_at_fork(after_in_child=_in_the_child)
