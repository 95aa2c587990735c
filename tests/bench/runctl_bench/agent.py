"""The agent on the machine: what it takes while nothing happens, and how quick it is when something does."""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runctl_bench.measure import cpu_of
from runctl_bench.table import Figure, Line
from runctl_shared.messages.replies import Done
from runctl_shared.messages.requests import CancelRun, InterruptRun
from runctl_testing.controller_process import House
from runctl_testing.eventually import eventually

WATCHED = 60.0
"""Seconds for which an idle agent is looked at."""
NOTICES, SAVES = 5, 5

_SLEEPS = "import signal; print('step=1', flush=True); signal.pause()"

# Four ranks; each writes down when the signal reached it, on the clock that all processes share.
_RANKS = """
import os, signal, sys, time
folder = sys.argv[1]
for rank in range(4):
    if os.fork() == 0:
        os.environ["RANK"] = str(rank)
        os.execve(sys.executable, [sys.executable, "-c", '''
import os, signal, sys, time
def asked(*_):
    name = os.path.join(sys.argv[1], os.environ["RUNCTL_ATTEMPT"] + "-" + os.environ["RANK"])
    open(name + ".new", "w").write(repr(time.monotonic()))
    os.rename(name + ".new", name)
    sys.exit(143)
signal.signal(signal.SIGTERM, asked)
open(os.path.join(sys.argv[1], "up-" + os.environ["RUNCTL_ATTEMPT"] + "-" + os.environ["RANK"]), "w").close()
while True:
    signal.pause()
''', folder], os.environ)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    try:
        os.wait()
    except ChildProcessError:
        sys.exit(143)
"""

# Saves when a file appears, and writes down when the save was complete.
_SAVES = """
import os, sys, time
import tiny_train
folder, out = os.environ["RUNCTL_CHECKPOINT_DIR"], sys.argv[1]
print("step=1", flush=True)
for number in range(1, 1000):
    while not os.path.exists(os.path.join(out, f"ask-{number}")):
        time.sleep(0.01)
    tiny_train.save(__import__("pathlib").Path(folder), number, number)
    done = time.monotonic()
    open(os.path.join(out, ".done"), "w").write(repr(done))
    os.rename(os.path.join(out, ".done"), os.path.join(out, f"done-{number}"))
"""


@contextmanager
def _house(folder: Path) -> Iterator[House]:
    """A controller with the intervals that users have."""
    made = House(folder / "state", f"sqlite://{folder / 'state' / 'bus.db'}", heartbeat=10.0, notice_poll=1.0)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def idle(folder: Path) -> Iterator[Line]:
    """Memory and CPU beside a training that does nothing; heartbeats every 10 s, notices polled every 1 s."""
    with _house(folder) as house:
        run = house.submit(command=(sys.executable, "-c", _SLEEPS))
        house.wait_training(run)
        agent = house.agent(run)
        threading.Event().wait(10)  # what it does once, at its start, is over
        before = cpu_of(agent)
        began = time.monotonic()
        threading.Event().wait(WATCHED)
        share = 100 * (cpu_of(agent) - before) / (time.monotonic() - began)
        yield Figure("idle agent: memory", agent.memory_info().rss / 2**20, "MiB", 48)
        yield Figure("idle agent: CPU", share, "%", 0.3)
        house.client.ask(CancelRun(run=run, force=True), Done)
        house.wait_final(run)


def notice(folder: Path) -> Iterator[Line]:
    """From before the notice is served to its signal in the last of four ranks; the worst of some."""
    out = folder / "ranks"
    out.mkdir(parents=True)
    seconds = []
    with _house(folder) as house:
        run = house.submit(command=(sys.executable, "-c", _RANKS, str(out)))
        for attempt in range(1, NOTICES + 1):
            eventually(lambda n=attempt: len(list(out.glob(f"up-{n}-?"))) == 4, 60)  # type: ignore[misc]  # a default binds it now
            house.wait_training(run, attempt)
            served = time.monotonic()
            house.client.ask(InterruptRun(run=run, notice=10.0), Done)
            eventually(lambda n=attempt: len(list(out.glob(f"{n}-?"))) == 4, 60)  # type: ignore[misc]  # the same
            seconds.append(max(float(path.read_text()) for path in out.glob(f"{attempt}-?")) - served)
        house.client.ask(CancelRun(run=run, force=True), Done)
        house.wait_final(run)
    yield Figure(f"notice served → signal in every rank, worst of {NOTICES}", max(seconds), "s", 1.2)


def upload(folder: Path) -> Iterator[Line]:
    """From a complete `.npz` to the first byte below the store's data; the median of some."""
    out = folder / "saves"
    out.mkdir(parents=True)
    path = os.pathsep.join([str(Path(__file__).parents[2] / "lib" / "runctl_testing")])
    with _house(folder) as house:
        run = house.submit(
            command=(sys.executable, "-c", _SAVES, str(out)),
            env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
        )
        house.wait_training(run)
        stored = house.state / "checkpoints" / run / "data"
        seconds = [_until_upload(out, stored, number) for number in range(1, SAVES + 1)]
        house.client.ask(CancelRun(run=run, force=True), Done)
        house.wait_final(run)
    yield Figure(
        f"checkpoint complete → upload begins, median of {SAVES}", statistics.median(seconds), "s", 0.3
    )


def _until_upload(out: Path, stored: Path, number: int) -> float:
    """Ask for a save; seconds from its end to the first new entry below `stored`, looked for every 2 ms."""
    before = _entries(stored)
    (out / f"ask-{number}").touch()
    eventually(lambda: _entries(stored) - before, 60, 0.002)
    began = time.monotonic()
    eventually((out / f"done-{number}").exists, 60)
    return began - float((out / f"done-{number}").read_text())


def _entries(folder: Path) -> set[str]:
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(folder))
    return set()
