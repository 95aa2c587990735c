"""A made-up fleet: agents on record, the controller's process that serves them, and their heartbeats.

python -m runctl_bench.fleet serve STATE BUS      a controller of what is on record in STATE
python -m runctl_bench.fleet beat BUS COUNT CONNECTIONS RATE SECONDS
                                                  heartbeats of COUNT agents, RATE of them per second
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pika

from runctl_controller.core.model import Record
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.providers.fake import FakeProvider
from runctl_controller.providers.port import Provider
from runctl_controller.service.config import ControllerConfig
from runctl_controller.service.main import serve
from runctl_controller.store.sql.store import SqlStore
from runctl_shared.bus.amqp.names import Names
from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import Address, Bus, Stream
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.messages.codec import encode
from runctl_shared.messages.events import Heartbeat
from runctl_testing.records import change_attempt, change_machine, change_run, finished, new_run, with_attempt

_TRANSIENT = pika.BasicProperties(delivery_mode=1)


def run_id(number: int) -> str:
    return f"run-bench{number:06d}"


def agent_id(number: int) -> str:
    return f"agent-bench{number:06d}-1"


def training(number: int, now: float) -> Record:
    """A run whose only attempt has trained for an hour."""
    record = with_attempt(
        new_run(run_id(number), now - 3600.0),
        ("training", now - 3600.0, None),
        state=AttemptState.TRAINING,
        permitted=True,
        events_through=5,
        started_at=now - 3600.0,
        capabilities=("FollowOutput",),
    )
    record = change_run(record, state=RunState.TRAINING)
    record = change_machine(record, 1, state=MachineState.RUNNING, launched_at=now - 3600.0, provider_id="x")
    return change_attempt(record, 1, created_at=now - 3600.0)


def fill(database: Path, trainings: int, ended: int = 0) -> None:
    """A new store in which so many runs train and so many have ended; those that train have their folder
    beside it in which checkpoints are kept."""
    store, now = SqlStore(f"sqlite:///{database}"), SystemClock().now()
    for start in range(0, ended, 5000):
        with store.transaction() as tx:
            for number in range(start, min(start + 5000, ended)):
                tx.save(_over(number, now))
    with store.transaction() as tx:
        for number in range(trainings):
            tx.save(_with_store(training(number, now), database.parent / "checkpoints"))
    store.close()


def _with_store(record: Record, folder: Path) -> Record:
    folder.mkdir(exist_ok=True)
    spec = msgspec.structs.replace(record.run.spec, store=f"file://{folder}")
    RunRepository(DirectoryStore(folder), spec.run).write_spec(spec)
    return msgspec.structs.replace(record, run=msgspec.structs.replace(record.run, spec=spec))


def _over(number: int, now: float) -> Record:
    at = now - 10.0 * 86400 + number
    record = with_attempt(
        finished(f"run-ended{number:06d}", at),
        ("boot", at, at + 1),
        ("training", at + 1, at + 2),
        state=AttemptState.ENDED,
        ended_at=at + 2,
    )
    return change_machine(record, 1, state=MachineState.TERMINATED, launched_at=at, ended_at=at + 2)


def without_queues(url: str, *, clock: Clock, name: str) -> Bus:
    """A bus that makes no command queues: ten thousand of them are a measure of the broker, which takes
    minutes for them, and heartbeats do not use them."""
    made = connect(url, clock=clock, name=name)
    made.declare_agent = lambda agent: None  # type: ignore[method-assign]  # the rest of it is the real one
    return made


def serve_fleet(state: Path, bus: str) -> None:
    """The product's own controller; only its machines are made up. Says `ready` once it answers."""

    def providers(_config: ControllerConfig, clock: Clock) -> dict[str, Provider]:
        made = FakeProvider(clock, name="local")
        store = SqlStore(f"sqlite:///{state / 'controller.db'}")
        with store.transaction() as tx:
            records = [record for run in tx.busy() if (record := tx.load(run)) is not None]
        store.close()
        for machine in (machine for record in records for machine in record.machines):
            made.launch(machine.order)
        return {"local": made}

    # Nobody is called silent for what the load generator or the broker cannot keep up with.
    config = ControllerConfig(state_dir=state, bus=bus, lease=3600.0, heartbeat=600.0)
    serve(config, lambda: print("ready", flush=True), providers, connect=without_queues)


def beat(bus: str, count: int, connections: int, rate: float, seconds: float) -> int:
    """Send heartbeats, evenly in time and in turns; how many: the broker has them all by then."""
    bodies = [_heartbeat(number) for number in range(count)]
    routes = [Names().route(Address(Stream.HEARTBEATS, agent_id(number))) for number in range(count)]
    with ExitStack() as stack:
        channels = [stack.enter_context(_connection(bus)).channel() for _ in range(connections)]
        began, sent = time.monotonic(), 0
        for number in _turns(count):
            due = began + sent / rate
            if max(due, time.monotonic()) > began + seconds:
                break
            time.sleep(max(0.0, due - time.monotonic()))
            route = routes[number]
            channels[number % connections].basic_publish(
                route.exchange, route.key, bodies[number], _TRANSIENT
            )
            sent += 1
        for channel in channels:
            # The broker works in order: what it answers now comes after all that was sent.
            channel.exchange_declare(routes[0].exchange, passive=True)
    return sent


def _connection(bus: str) -> pika.BlockingConnection:
    parameters = pika.URLParameters(bus)
    parameters.heartbeat = 0  # it is not always served in time, and lives for minutes only
    return pika.BlockingConnection(parameters)


def _turns(count: int) -> Iterator[int]:
    while True:
        yield from range(count)


def _heartbeat(number: int) -> bytes:
    body = Heartbeat(
        phase="training", step=12345, epoch=3.2, loss=0.318, saved_step=12000, at_risk_seconds=42.0
    )
    return encode(
        body, id=f"hb-{number}", run=run_id(number), attempt=1, agent=agent_id(number), sent=time.time()
    )


def main(words: list[str]) -> None:
    if words[0] == "serve":
        serve_fleet(Path(words[1]), words[2])
    else:
        print(beat(words[1], int(words[2]), int(words[3]), float(words[4]), float(words[5])), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
