"""One controller on one core: heartbeats, and many runs on record."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import psutil

from runctl_bench import fleet
from runctl_bench.measure import core, cpu_of
from runctl_bench.table import Figure, Line
from runctl_controller.client.client import Client
from runctl_controller.core.inputs import World
from runctl_controller.service.engine import Engine
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.clock import SystemClock
from runctl_shared.messages.base import Body
from runctl_shared.messages.replies import RunDetail, RunList
from runctl_shared.messages.requests import ListRuns, ShowRun
from runctl_testing.broker import new_broker
from runctl_testing.eventually import eventually

AGENTS, RATE = 1_000, 1_000.0
"""Heartbeats of so many agents, so many per second: as many as ten thousand agents send (see `scale`)."""
FLOOD = 30_000
"""Heartbeats that are sent at once, to see how fast they are taken."""
MANY, FEW = 100_000, 100
QUEUE = "runctl.heartbeats"


class Served:
    """A controller's process on one core, and what it has used."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.info = psutil.Process(process.pid)
        self.info.cpu_affinity([core()])

    def cpu(self) -> float:
        return cpu_of(self.info)

    def memory(self) -> float:
        """MiB."""
        return float(self.info.memory_info().rss / 2**20)

    def quiet(self) -> None:
        """Until it has nothing to do: a second in which it uses less than a twentieth of its core."""

        def idles() -> bool:
            before = self.cpu()
            time.sleep(1.0)
            return self.cpu() - before < 0.05

        eventually(idles, 600, 0.0, "the controller to have nothing to do")


@contextmanager
def served(state: Path, bus: str) -> Iterator[Served]:
    words = (sys.executable, "-m", "runctl_bench.fleet", "serve", str(state), bus)
    with (state / "controller.log").open("wb") as log:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert said == "ready\n", (state / "controller.log").read_text()[-2000:]
        yield Served(process)
    finally:
        process.terminate()
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()


def beats(bus: str, agents: int, connections: int, rate: float, seconds: float) -> int:
    """Heartbeats of so many agents from a process of its own; how many were sent."""
    words = (sys.executable, "-m", "runctl_bench.fleet", "beat", bus, str(agents), str(connections))
    done = subprocess.run((*words, str(rate), str(seconds)), check=True, capture_output=True, text=True)
    return int(done.stdout)


def waiting(bus: str) -> int:
    """Heartbeats in the broker's queue."""
    with pika.BlockingConnection(pika.URLParameters(bus)) as connection:
        return int(connection.channel().queue_declare(QUEUE, passive=True).method.message_count)


def heartbeats(
    folder: Path, agents: int = AGENTS, connections: int = 20, seconds: float = 60.0
) -> Iterator[Line]:
    """What a heartbeat costs the controller, as fast as it can and at the fleet's own pace."""
    state = folder / "state"
    state.mkdir(mode=0o700, parents=True)
    fleet.fill(state / "controller.db", agents)
    broker = new_broker(folder / "broker")
    try:
        broker.start()
        with served(state, broker.url) as controller:
            beats(broker.url, agents, 4, agents / 2, 4.0)  # the first of each is news, and is decided upon
            controller.quiet()
            yield from _flood(controller, broker.url, agents)
            yield from _pace(controller, broker.url, agents, connections, seconds)
    finally:
        broker.close()


def _flood(controller: Served, bus: str, agents: int) -> Iterator[Line]:
    """Heartbeats per second of its CPU: so many would it take on a core of its own."""
    before, sent = controller.cpu(), 0
    while sent < FLOOD:
        sent += beats(bus, agents, 4, 1e6, 0.5)
        eventually(lambda: waiting(bus) == 0, 120, 0.1)
    controller.quiet()
    yield Figure(
        "heartbeats that one core takes", sent / (controller.cpu() - before), "/s", 5000, at_least=True
    )


def _pace(controller: Served, bus: str, agents: int, connections: int, seconds: float) -> Iterator[Line]:
    memory, before, began = controller.memory(), controller.cpu(), time.monotonic()
    sent = beats(bus, agents, connections, RATE, seconds)
    took = time.monotonic() - began
    share = 100 * (controller.cpu() - before) / took * RATE / (sent / took)  # had they all come in time
    yield Figure(f"CPU for {RATE:,.0f} heartbeats/s of {agents:,} agents", share, "%", 25)
    yield Figure(
        f"memory after {seconds:g} s of them, beside before", controller.memory() / memory, "x", 1.05
    )


def many_runs(folder: Path) -> Iterator[Line]:
    """Questions and a look at everything, with many finished runs beside few: the controller's CPU."""
    costs: dict[int, dict[str, float]] = {}
    for ended in (FEW, MANY):
        state = folder / str(ended)
        state.mkdir(mode=0o700, parents=True)
        fleet.fill(state / "controller.db", 10, ended)
        costs[ended] = {"reconcile": _wake(state / "controller.db")}
        with served(state, f"sqlite://{state / 'bus.db'}") as controller:
            controller.quiet()
            client = Client(f"sqlite://{state / 'bus.db'}")
            try:
                costs[ended]["ls"] = _cost(controller, client, ListRuns(all=True, limit=50), RunList)
                costs[ended]["show"] = _cost(controller, client, ShowRun(run=fleet.run_id(1)), RunDetail)
            finally:
                client.close()
    for name in costs[FEW]:
        ratio = costs[MANY][name] / costs[FEW][name]
        yield Figure(f"{name}: {MANY:,} finished runs beside {FEW}", ratio, "x", 1.5)


def _cost(controller: Served, client: Client, question: Body, answer: type[Body]) -> float:
    """CPU seconds of the controller for a hundred of these; the median of some rounds."""
    rounds = []
    for _ in range(5):
        before = controller.cpu()
        for _ in range(100):
            client.ask(question, answer)
        rounds.append(controller.cpu() - before)
    return statistics.median(rounds)


def _wake(database: Path) -> float:
    """CPU seconds of deciding what is to be looked at, as after a start; the median of some."""
    store = SqlStore(f"sqlite:///{database}")
    engine = Engine(store, World(installation=store.installation(), bus="", offers=()))
    rounds = []
    for _ in range(9):
        before = time.process_time()
        for _woken in engine.wake(SystemClock().now()):
            pass
        rounds.append(time.process_time() - before)
    store.close()
    return statistics.median(rounds)
