"""One connection to the broker at a time, kept alive by one thread.

pika is not thread-safe, so everything that touches it runs on that thread; other threads `post` to it. Each
try has a fresh loop and a fresh connection object: nothing of a broken one is ever used again.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from pika import SelectConnection
from pika.adapters.select_connection import IOLoop
from pika.exceptions import AMQPConnectionError

from runctl_shared.bus.amqp import trouble
from runctl_shared.bus.amqp.backoff import Backoff
from runctl_shared.bus.amqp.target import Target
from runctl_shared.bus.port import BusError, BusRefused
from runctl_shared.clock import Clock

if TYPE_CHECKING:
    from pika.channel import Channel

log = logging.getLogger("runctl.bus")
# pika tells every failed try at length, with a traceback; the link says it once, in a sentence.
logging.getLogger("pika").setLevel(logging.CRITICAL)

Task = Callable[[], None]

TICK = 1.0
GRACE = 5.0
"""Seconds beyond those for the thread to end: it is waited for, but not for ever."""
STEADY = 10.0
"""Seconds of being up after which a loss counts as the first again."""
PARTING = 2.0
"""Seconds that a closing connection has for its farewell."""


class Link:
    """Connects, reconnects, and tells what happens.

    The callbacks run on the link's thread: `opened` when a connection is open (it then calls `up` when all is
    in place), `lost` when one was lost or could not be made, `tick` about once a second, `over` after `stop`,
    when no connection will come any more.
    """

    def __init__(self, target: Target, clock: Clock, name: str) -> None:
        self.target = target
        self._clock = clock
        self._parameters = target.parameters(name)
        self._backoff = Backoff()

        self.opened: Task = _nothing
        self.lost: Callable[[BusError], None] = _ignore
        self.tick: Task = _nothing
        self.over: Task = _nothing

        # Guarded by _changed, which is notified when one of them changes:
        self._changed = threading.Condition()
        self._up = False
        self._trouble: BusError | None = None
        self._stopping = False
        self._is_over = False
        self._mailbox: deque[Task] = deque()
        self._loop: IOLoop | None = None

        # Touched on the link's thread only:
        self._connection: SelectConnection | None = None
        self._given_up: BusError | None = None
        self._delay = 0.0
        self._up_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"{name}-amqp", daemon=True)

    # ---- from any thread

    def start(self) -> None:
        self._thread.start()

    @property
    def is_up(self) -> bool:
        return self._up

    @property
    def trouble(self) -> BusError | None:
        """Why the link is down; None while it is up or before the first try has ended."""
        return self._trouble

    @property
    def on_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def post(self, task: Task) -> bool:
        """Run `task` on the link's thread, in the order of posting. False once it is over."""
        with self._changed:
            if self._is_over:
                return False
            self._mailbox.append(task)
            # Who finds the box empty rings; the others' tasks are taken along.
            if len(self._mailbox) == 1 and self._loop is not None:
                self._loop.add_callback_threadsafe(self._drain)
            return True

    def wait_up(self, timeout: float) -> bool:
        """Wait for the link. Raises BusRefused as soon as the broker has refused us."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._up or self._stopping or isinstance(self._trouble, BusRefused), timeout
            )
            if isinstance(self._trouble, BusRefused):
                raise trouble.again(self._trouble)
            return self._up

    def wait_verdict(self, timeout: float) -> None:
        """Wait until the link is up or known to be down."""
        with self._changed:
            self._changed.wait_for(lambda: self._up or self._stopping or self._trouble is not None, timeout)

    def require_up(self, timeout: float) -> None:
        """Raises BusUnavailable or BusRefused unless the link is up, or comes up with the try under way."""
        self.wait_verdict(timeout)
        if not self._up:
            raise self.why_down()

    def why_down(self) -> BusError:
        """A fresh error, for raising."""
        return trouble.again(self._trouble) if self._trouble else trouble.unreachable(self.target)

    def stop(self) -> None:
        """Say farewell to the broker and end the thread. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self.post(self._part)
        if not self.on_thread:
            self._thread.join(PARTING + GRACE)

    # ---- on the link's thread

    @property
    def connection(self) -> SelectConnection | None:
        """The open connection, if there is one."""
        connection = self._connection
        return connection if connection is not None and connection.is_open else None

    def open_channel(self, opened: Callable[[Channel], None]) -> Channel | None:
        """A new channel, or None when there is no connection (or none that has room for it)."""
        if self.connection is None:
            return None
        try:
            return self.connection.channel(on_open_callback=opened)
        except AMQPConnectionError:
            log.error("bus.no_channel_left broker=%s", self.target.place)
            return None

    def call_later(self, seconds: float, task: Task) -> None:
        """Forgotten when the connection ends."""
        if self._loop is not None:
            self._loop.call_later(seconds, task)

    def up(self) -> None:
        """All is in place on this connection."""
        self._up_since = self._clock.monotonic()
        log.info("bus.up broker=%s", self.target.place)
        self._tell(up=True, trouble=None)

    def give_up(self, error: BusError) -> None:
        """Leave this connection: the broker lets us in, and then does not let us work."""
        if self._connection is not None and self._connection.is_open:
            log.warning("bus.setup_failed broker=%s reason=%s", self.target.place, error)
            self._given_up = error
            self._farewell(self._connection)

    # ---- inside

    def _run(self) -> None:
        while (loop := self._next_loop()) is not None:
            loop.call_later(self._delay, self._connect)
            loop.call_later(TICK, self._tick)
            self._spin(loop)
            with self._changed:
                self._loop = None
            loop.close()
        self._drain()
        _safely(self.over)

    def _next_loop(self) -> IOLoop | None:
        with self._changed:
            while not self._stopping:
                try:
                    self._loop = IOLoop()
                except OSError as error:  # no file descriptor left: others may give some back
                    log.error("bus.no_loop reason=%s", error)
                    self._changed.wait(TICK)
                else:
                    self._loop.add_callback_threadsafe(self._drain)
                    return self._loop
            self._is_over = True
            return None

    def _spin(self, loop: IOLoop) -> None:
        """Run `loop` until it is stopped. A bug of ours or of pika costs the connection, not the thread."""
        for _ in range(3):
            try:
                loop.start()
                return
            except Exception:
                log.exception("bus.broke broker=%s", self.target.place)
            if self._connection is None or self._connection.is_closed:
                break
            _safely(partial(_cut, self._connection))  # its end comes through the loop
        self._ended(None, None)

    def _connect(self) -> None:
        self._connection = SelectConnection(
            self._parameters,
            on_open_callback=lambda _connection: _safely(self.opened),
            on_open_error_callback=self._ended,
            on_close_callback=self._ended,
            custom_ioloop=self._loop,
        )
        self._connection.add_on_connection_blocked_callback(
            lambda *_: log.warning("bus.blocked broker=%s: it is out of memory or disk", self.target.place)
        )

    def _ended(self, _connection: SelectConnection | None, error: BaseException | None) -> None:
        reason = self._given_up or trouble.of_connection(error, self.target)
        self._connection = self._given_up = None
        if self._up_since is not None and self._clock.monotonic() - self._up_since >= STEADY:
            self._backoff.reset()
        self._up_since = None
        self._delay = self._backoff.slow() if isinstance(reason, BusRefused) else self._backoff.next()
        if not self._stopping:
            # Once for each reason: a broker may be away for days.
            news = self._trouble is None or self._trouble.what != reason.what
            log.log(
                logging.WARNING if news else logging.DEBUG,
                "bus.down broker=%s next_try_in=%.1f reason=%s",
                self.target.place,
                self._delay,
                reason,
            )
        self._tell(up=False, trouble=reason)
        _safely(lambda: self.lost(reason))
        self._stop_loop()

    def _part(self) -> None:
        if self._connection is None:
            self._stop_loop()
        else:
            self._farewell(self._connection)

    def _farewell(self, connection: SelectConnection) -> None:
        self.call_later(PARTING, lambda: _cut(connection))
        if not connection.is_closing and not connection.is_closed:
            connection.close()

    def _stop_loop(self) -> None:
        if self._loop is not None:
            self._loop.stop()

    def _tick(self) -> None:
        self.call_later(TICK, self._tick)
        _safely(self.tick)

    def _drain(self) -> None:
        with self._changed:
            tasks, self._mailbox = self._mailbox, deque()
        for task in tasks:
            _safely(task)

    def _tell(self, *, up: bool, trouble: BusError | None) -> None:
        with self._changed:
            self._up, self._trouble = up, trouble
            self._changed.notify_all()


def _cut(connection: SelectConnection) -> None:
    """End a connection whose peer no longer answers. pika offers nothing for this in public: `close` waits
    for the answer; its own heartbeat checker ends a dead connection in this way."""
    if not connection.is_closed:
        connection._terminate_stream(AMQPConnectionError("the broker did not answer the farewell"))


def _safely(task: Task) -> None:
    """A bug in one message's handling must not cost the others their link."""
    try:
        task()
    except Exception:
        log.exception("bus.task_broke")


def _nothing() -> None:
    pass


def _ignore(_error: BusError) -> None:
    pass
