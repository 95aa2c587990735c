"""Several connections to one bus, in this process and in others, for the tests of the bus."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from runctl_shared.bus.connect import connect
from runctl_shared.bus.embedded.bus import EmbeddedBus
from runctl_shared.bus.port import Address, Bus, Delivery, Stream, Subscription
from runctl_shared.clock import FakeClock, SystemClock

PATIENCE = 60.0
"""Seconds after which a test gives up; nothing is asserted about how long anything took."""

EVENTS = Address(Stream.EVENTS)
HEARTBEATS = Address(Stream.HEARTBEATS)
REQUESTS = Address(Stream.REQUESTS)
FEED = Address(Stream.FEED)


def event(agent: str, topic: str = "progress") -> Address:
    return Address(Stream.EVENTS, agent, topic)


def command(agent: str, topic: str = "save") -> Address:
    return Address(Stream.COMMANDS, agent, topic)


def numbers(count: int, start: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(start, start + count)]


class Inbox:
    """A handler that keeps what it is given. Settles each delivery at once unless told to `hold` it."""

    def __init__(self, *, hold: bool = False) -> None:
        self._hold = hold
        self._changed = threading.Condition()
        self._all: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        with self._changed:
            self._all.append(delivery)
            self._changed.notify_all()
        if not self._hold:
            delivery.ack()

    def wait(self, count: int) -> list[Delivery]:
        """Everything so far, once there are at least `count`."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self._all) >= count, PATIENCE)
            assert arrived, f"{len(self._all)} of {count} arrived: {[d.body[:20] for d in self._all]}"
            return list(self._all)

    def bodies(self, count: int = 0) -> list[bytes]:
        return [delivery.body for delivery in self.wait(count)]


class Child:
    """A process of its own with its own connection (see bus_child.py), to be killed like a machine."""

    def __init__(self, *arguments: str) -> None:
        program = Path(__file__).with_name("bus_child.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def lines(self, count: int) -> list[str]:
        """The next `count` lines that it prints; fewer if it ends before."""
        assert self._process.stdout is not None
        return [line.rstrip("\n") for _, line in zip(range(count), self._process.stdout, strict=False)]

    def kill(self) -> list[str]:
        """SIGKILL it; returns what else it had printed. Idempotent."""
        self._process.kill()
        self._process.wait()
        output = self._process.stdout
        if output is None or output.closed:
            return []
        with output:
            return output.read().splitlines()


class Buses:
    """One fresh bus, reachable by `url`; everything opened through this object is closed at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._open: list[Bus] = []
        self._children: list[Child] = []

    def connect(self) -> Bus:
        bus = connect(self.url, clock=SystemClock())
        self._open.append(bus)
        assert bus.wait_connected(PATIENCE)
        return bus

    def controller(self, *agents: str) -> Bus:
        """A connection that has declared everything, the command queues of `agents` included."""
        bus = self.connect()
        bus.declare_controller()
        for agent in agents:
            bus.declare_agent(agent)
        return bus

    def child(self, *arguments: str) -> Child:
        child = Child(self.url, *arguments)
        self._children.append(child)
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()
        for bus in self._open:
            bus.close()


def send(bus: Bus, to: Address, *bodies: bytes) -> None:
    """Publish and wait until all are confirmed."""
    confirmed = [bus.publish(to, body, message_id=f"m-{body[:20].hex()}") for body in bodies]
    for future in confirmed:
        future.result(PATIENCE)


def settled(bus: Bus) -> None:
    """Returns when `bus` has had ample occasion to deliver whatever else it was going to deliver.

    It has by then declared a queue, taken a message to itself out of it and removed the queue again.
    """
    inbox = Inbox()
    bus.declare_agent("barrier")
    subscription: Subscription = bus.subscribe(command("barrier"), inbox)
    send(bus, command("barrier"), b"here")
    inbox.wait(1)
    subscription.close()
    bus.remove_agent("barrier")


@contextlib.contextmanager
def opened(file: Path, clock: FakeClock | None = None) -> Iterator[EmbeddedBus]:
    """A connection to an embedded bus that need not succeed."""
    bus = EmbeddedBus(str(file), clock=clock or SystemClock())
    try:
        yield bus
    finally:
        bus.close()


def rows(file: Path, query: str) -> list[tuple[object, ...]]:
    """What the file of an embedded bus says, whatever the bus itself makes of it."""
    with contextlib.closing(sqlite3.connect(file)) as db:
        return db.execute(query).fetchall()
