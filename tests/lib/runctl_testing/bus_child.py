"""A process with a connection of its own, which ends only by being killed.

    bus_child.py URL hold STREAM AGENT       subscribe, settle nothing; prints each body
    bus_child.py URL publish AGENT COUNT     publish events 0, 1, …; prints each once it is confirmed
"""

from __future__ import annotations

import sys
import threading

from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import Address, Bus, Stream
from runctl_shared.clock import SystemClock


def main() -> None:
    url, what, *rest = sys.argv[1:]
    bus = connect(url, clock=SystemClock())
    if what == "hold":
        _hold(bus, Stream(rest[0]), rest[1])
    else:
        _publish(bus, rest[0], int(rest[1]))
    threading.Event().wait()


def _hold(bus: Bus, stream: Stream, agent: str) -> None:
    bus.subscribe(Address(stream, agent), lambda delivery: print(delivery.body.decode(), flush=True))
    print("subscribed", flush=True)


def _publish(bus: Bus, agent: str, count: int) -> None:
    to = Address(Stream.EVENTS, agent, "progress")
    futures = [bus.publish(to, b"%d" % n, message_id=f"m-{n}") for n in range(count)]
    for n, future in enumerate(futures):
        future.result(60)
        print(n, flush=True)


if __name__ == "__main__":
    main()
