"""Asking the controller, and listening to its feed."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import (
    Address,
    Bus,
    BusRefused,
    BusUnavailable,
    RequestTimedOut,
    Stream,
    Subscription,
)
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.draw import new_id
from runctl_shared.errors import NoController, NotFound, RunctlError, from_code
from runctl_shared.ids import may_begin
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Malformed, Message, decode, encode
from runctl_shared.messages.replies import Failed

R = TypeVar("R", bound=Body)
TIMEOUT = 10.0
"""Seconds that a controller may take to reply."""
MEND = "`runctl controller status` tells more; `runctl controller start` starts one."


class Client:
    """A connection to the bus at `url`. Use it as a context manager, or close it. `mend`: what to do when no
    controller answers."""

    def __init__(self, url: str, clock: Clock | None = None, mend: Callable[[], str] = lambda: MEND) -> None:
        self._mend = mend
        # What goes wrong is told by what is raised; the bus's own words are for a controller's log.
        logging.getLogger("runctl").addHandler(logging.NullHandler())
        self._clock = clock or SystemClock()
        self._bus: Bus = connect(url, clock=self._clock, name="client")
        self._actor = user_name()

    def ask(self, body: Body, kind: type[R], timeout: float = TIMEOUT) -> R:
        """The reply, which is of `kind`. Raises what the controller refuses with, NoController when none
        answers within `timeout` seconds."""
        data = encode(body, id=new_id("req"), sent=self._clock.now(), actor=self._actor)
        try:
            reply = decode(self._bus.request(data, timeout=timeout)).body
        except (RequestTimedOut, BusUnavailable) as error:
            raise NoController("No controller answers.", self._mend()) from error
        except BusRefused as error:
            raise NoController(error.what, error.mend) from error
        except Malformed as error:
            raise RunctlError(f"The controller's reply makes no sense: {error}.") from error
        if isinstance(reply, Failed):
            raise from_code(reply.code, reply.what, reply.mend)
        if not isinstance(reply, kind):
            raise RunctlError(
                f"The controller replied with {type(reply).__name__}.", "Is it of another version?"
            )
        return reply

    def listen(self, heard: Callable[[Message[Any]], None]) -> Subscription:
        """Call `heard`, on the bus's thread, with each message of the feed from now on."""

        def on_delivery(delivery: Any) -> None:
            try:
                heard(decode(delivery.body))
            except Malformed:
                pass  # the feed is never the only way to learn something
            finally:
                delivery.ack()

        return self._bus.subscribe(Address(Stream.FEED), on_delivery)

    def close(self) -> None:
        self._bus.close(1.0)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def user_name() -> str:
    """Who asks, for the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for this user id, as in many containers
        return f"uid-{os.getuid()}"


def checked_name(run: str) -> str:
    """`run` if it can be the name or id of a run, or the beginning of one; raises NotFound, for there is none
    called otherwise."""
    if not may_begin(run):
        raise NotFound(f"There is no run {run[:100]!r}.", "`runctl ls` shows the runs.")
    return run
