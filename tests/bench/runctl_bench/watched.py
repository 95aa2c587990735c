"""What being watched costs the training: its own step time, with the agent and without."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from runctl_bench.measure import clean_env, core
from runctl_bench.table import Figure, Line
from runctl_testing.controller_process import House

ROUNDS = 4

# A step is a fixed amount of arithmetic; each is timed, printed, and every 200th saved.
_STEPS = """
import json, os, pathlib, sys, time
sys.path.insert(0, sys.argv[2])
import tiny_train
folder = pathlib.Path(os.environ["RUNCTL_CHECKPOINT_DIR"])
times = []
for step in range(1, 1501):
    began = time.perf_counter()
    total = 0
    for number in range(60000):
        total += number * step
    print(f"step={step} loss={1 / step:.6f}", flush=True)
    if step % 200 == 0:
        tiny_train.save(folder, step, 0)
    times.append(time.perf_counter() - began)
with open(sys.argv[1], "w") as out:
    json.dump(times, out)
"""


def overhead(folder: Path) -> Iterator[Line]:
    """The mean step of a watched training beside that of one alone, both on one core with the agent; taken in
    turns, the slowest hundredth of the steps (the machine's own business) left out of both."""
    import json

    tools = str(Path(__file__).parents[2] / "lib" / "runctl_testing")
    alone: list[float] = []
    watched: list[float] = []
    os.sched_setaffinity(0, {core()})  # inherited by all: there is no second core to hide the agent on
    house = House(
        folder / "state", f"sqlite://{folder / 'state' / 'bus.db'}", heartbeat=10.0, notice_poll=1.0
    )
    house.start()
    try:
        for number in range(ROUNDS):
            for kind, times in (("alone", alone), ("watched", watched)):
                out = folder / f"{kind}-{number}.json"
                command = (sys.executable, "-c", _STEPS, str(out), tools)
                if kind == "alone":
                    saves = folder / f"saves-{number}"
                    saves.mkdir()
                    with (folder / f"alone-{number}.log").open("wb") as log:
                        env = clean_env({"RUNCTL_CHECKPOINT_DIR": str(saves)})
                        subprocess.run(command, env=env, check=True, stdout=log)
                else:
                    house.wait_final(house.submit(command=command))
                times.append(_mean(json.loads(out.read_text())))
    finally:
        house.stop()
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    share = 100 * (statistics.median(w / a for w, a in zip(watched, alone, strict=True)) - 1)
    yield Figure("overhead of being watched, on the step time", share, "%", 0.5)


def _mean(times: list[float]) -> float:
    return statistics.fmean(sorted(times)[: len(times) * 99 // 100])
