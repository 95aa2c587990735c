"""Run as a script: the real GPU watch, for a while, in a process that finds a library of the test's choosing.

Prints a line for each fault as it is told, and `sample` with the GPUs whenever they have changed; ends when
its standard input does.
"""

from __future__ import annotations

import logging
import sys
import threading

import msgspec

from runctl_agent.core.inputs import HardwareFaultSeen
from runctl_agent.hardware.gpus import GpuWatch
from runctl_shared.clock import SystemClock


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="log %(message)s", stream=sys.stdout)
    told = threading.Lock()

    def say(*words: str) -> None:
        with told:
            print(*words, flush=True)

    def fault(given: HardwareFaultSeen) -> None:
        facts = msgspec.structs.asdict(given)
        del facts["at"]
        say("fault", msgspec.json.encode(facts).decode())

    watch = GpuWatch(SystemClock(), fault, every=0.1)
    watch.start()
    over, before = threading.Event(), "[]"

    def until_told() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=until_told, daemon=True).start()
    while not over.wait(0.05):
        now = msgspec.json.encode(watch.samples()).decode()
        if now != before:
            say("sample", now)
            before = now
    watch.stop()
    say("pynvml", "imported" if "pynvml" in sys.modules else "left alone")


if __name__ == "__main__":
    main()
