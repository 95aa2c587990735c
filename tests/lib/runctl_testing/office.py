"""A controller in a thread of this process: bus, loop and core are real, store and provider the fakes."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from runctl_controller.access.port import Access
from runctl_controller.client.client import Client
from runctl_controller.core.inputs import World
from runctl_controller.core.model import Record
from runctl_controller.providers.fake import FakeProvider
from runctl_controller.service.clients import Clients
from runctl_controller.service.engine import Engine
from runctl_controller.service.executor import Executor
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.loop import Loop
from runctl_controller.store.memory import MemoryStore
from runctl_shared.bus.port import Address, Stream
from runctl_shared.clock import SystemClock
from runctl_shared.ids import agent_id
from runctl_shared.messages import events
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import encode
from runctl_shared.messages.replies import Done, RunDetail, Status
from runctl_shared.messages.requests import ShowRun, SubmitRun
from runctl_shared.spec import RunSpec
from runctl_testing.buses import PATIENCE, Buses, Inbox
from runctl_testing.eventually import eventually
from runctl_testing.records import OFFER

RUN = "run-abcd1234"


class Office:
    """Started on construction; `close` ends everything. Over the embedded bus, or that at the URL `bus`.
    `patience`: so many times longer than usual it waits for whoever is silent or does not boot."""

    def __init__(
        self, folder: Path, bus: str = "", access: Access | None = None, *, patience: float = 1.0
    ) -> None:
        self.folder = folder
        self.clock = SystemClock()
        self.store = MemoryStore()
        self.store.take_over()
        self.provider = FakeProvider(self.clock, name="local", offers=[OFFER])
        self.buses = Buses(bus or f"sqlite://{folder / 'bus.db'}")
        self.bus = self.buses.controller()
        world = World(
            installation="inst-test",
            bus=self.buses.url,
            offers=tuple(self.provider.offers()),
            boot_limit=120.0 * patience,
        )
        executor = Executor(self.bus, {"local": self.provider}, self.clock, "inst-test", access)
        self.loop = Loop(
            Engine(self.store, world),
            self.store,
            self.bus,
            self.clock,
            Hearing(10.0 * patience),
            executor.carry_out,
        )
        about = Status(
            pid=os.getpid(),
            version="1",
            installation="inst-test",
            started_at=1.0,
            embedded=True,
            unfinished=0,
            machines=0,
            bus="sqlite",
            state_dir=str(folder),
        )
        self.clients = Clients(self.loop, self.store, self.clock, about, {"local": self.provider})
        self.bus.subscribe(Address(Stream.EVENTS), self.loop.on_event)
        self.bus.subscribe(Address(Stream.HEARTBEATS), self.loop.on_heartbeat)
        self.bus.subscribe(Address(Stream.REQUESTS), self.clients.on_request)
        self.thread = threading.Thread(target=self.loop.run, name="office", daemon=True)
        self.thread.start()
        self.client = Client(self.buses.url, self.clock)
        self.agents = self.buses.connect()
        self._said = 0

    def close(self) -> None:
        self.loop.stop()
        self.thread.join(PATIENCE)
        self.clients.close()
        self.client.close()
        self.buses.close()
        assert not self.thread.is_alive()

    # -- a run --------------------------------------------------------------------------------

    def spec(self, run: str = RUN, name: str = "digits", **fields: object) -> RunSpec:
        store = f"file://{self.folder / 'checkpoints'}"
        return RunSpec(
            run=run,
            name=name,
            command=("true",),
            workdir="/",
            store=store,
            **fields,  # type: ignore[arg-type]  # as given
        )

    def submitted(self, spec: RunSpec | None = None) -> RunDetail:
        spec = spec or self.spec()
        self.client.ask(SubmitRun(spec=spec), Done)
        return self.detail(spec.run)

    def detail(self, run: str = RUN) -> RunDetail:
        return self.client.ask(ShowRun(run=run), RunDetail)

    def record(self, run: str = RUN) -> Record:
        with self.store.transaction() as tx:
            record = tx.load(run)
        assert record is not None
        return record

    def says(self, *bodies: Body, agent: str = agent_id(RUN, 1)) -> None:
        """The agent of the run's first attempt reports these; returns when the controller has them."""
        for body in bodies:
            self._said += 1
            data = encode(body, id=f"{agent}-{self._said}", sequence=self._said, attempt=1, agent=agent)
            to = Address(Stream.EVENTS, agent, type(body).__name__)
            self.agents.publish(to, data, message_id=f"{agent}-{self._said}").result(PATIENCE)
        eventually(lambda: self.record().attempts[0].events_through == self._said, PATIENCE)

    def training(self) -> RunDetail:
        """A run whose first attempt trains, at step 5."""
        self.submitted()
        eventually(lambda: self.provider.burning())
        self.says(
            events.Registered(protocol=1, version="1", capabilities=()),
            events.Staged(),
            events.Claimed(parent=None),
            events.TrainingStarted(pid=7, resumed_from=None, restored_step=None),
            events.FirstStepSeen(step=5, restored_step=None, seconds=1.0),
        )
        return self.detail()

    def commands(self, agent: str = agent_id(RUN, 1)) -> Inbox:
        """What the controller sends to the agent."""
        inbox = Inbox()
        self.agents.subscribe(Address(Stream.COMMANDS, agent), inbox)
        return inbox
