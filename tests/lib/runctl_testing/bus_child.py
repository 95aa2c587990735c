"""A process with a connection of its own, which ends only by being killed.

bus_child.py URL hold STREAM AGENT       subscribe, settle nothing; prints each body
bus_child.py URL work STREAM AGENT       subscribe, acknowledge; prints each body before
bus_child.py URL publish AGENT COUNT     publish events 0, 1, …; prints each once it is confirmed
bus_child.py URL fork STREAM AGENT       like hold; prints the pid of a child of its own that lives on
"""

from __future__ import annotations

import os
import sys
import threading

from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import Address, Bus, Delivery, Stream
from runctl_shared.clock import SystemClock


def main() -> None:
    url, what, *rest = sys.argv[1:]
    bus = connect(url, clock=SystemClock())
    if what == "publish":
        _publish(bus, rest[0], int(rest[1]))
    else:
        _consume(bus, Address(Stream(rest[0]), rest[1]), work=what == "work")
    if what == "fork":
        pid = os.fork()
        if pid:
            _say(str(pid))
        else:
            os.close(1)  # else whoever reads it would wait for this process too
    threading.Event().wait()


def _consume(bus: Bus, source: Address, *, work: bool) -> None:
    def handle(delivery: Delivery) -> None:
        _say(delivery.body.decode())
        if work:
            delivery.ack()

    bus.subscribe(source, handler=handle, prefetch=20)
    _say("subscribed")


def _publish(bus: Bus, agent: str, count: int) -> None:
    to = Address(Stream.EVENTS, agent, "progress")
    futures = [bus.publish(to, b"%d" % n, message_id=f"m-{n}") for n in range(count)]
    for n, future in enumerate(futures):
        future.result(60)
        _say(str(n))


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())  # one call: two threads say things


if __name__ == "__main__":
    main()
