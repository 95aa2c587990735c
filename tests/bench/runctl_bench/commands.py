"""The command line: its start, and questions to a running controller."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from runctl_bench.measure import clean_env, times_bare
from runctl_bench.peers import peers
from runctl_bench.table import Figure, Line
from runctl_testing.broker import new_broker
from runctl_testing.house import CommandLine

RUNCTL = str(Path(sys.executable).with_name("runctl"))
START, EMBEDDED, AMQP = 6.0, 14.0, 18.0


def start(folder: Path) -> Iterator[Line]:
    """What every command pays."""
    env = clean_env({"HOME": str(folder)})
    for option in ("--version", "--help"):
        yield Figure(f"runctl {option}", times_bare((RUNCTL, option), env), "x", START)
    for name, command in peers():
        yield Figure(f"{name} --version, to compare", times_bare(command, env, rounds=3), "x")


def listing(folder: Path) -> Iterator[Line]:
    """`runctl ls` against a running controller, on both buses."""
    with ExitStack() as stack:
        broker = new_broker(folder / "broker")
        stack.callback(broker.close)
        broker.start()
        for name, bus, limit in (("embedded", "", EMBEDDED), ("AMQP", broker.url, AMQP)):
            runctl = CommandLine(folder / name.lower())
            stack.callback(runctl.close)
            env = clean_env({k: v for k, v in runctl.env.items() if k.startswith("RUNCTL_") or k == "HOME"})
            runctl.env = env | ({"RUNCTL_BUS_URL": bus} if bus else {})
            assert runctl("controller", "start").code == 0
            assert runctl("run", "--name", "one", *runctl.train("--steps", "3")).code == 0
            argv = (RUNCTL, "ls")
            yield Figure(f"runctl ls, {name}", times_bare(argv, runctl.env, runctl.folder), "x", limit)
