"""Wiring of a controller's process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping

from runctl_controller import __version__
from runctl_controller.core.inputs import World
from runctl_controller.core.tables import MachineState
from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.port import Provider
from runctl_controller.service.clients import Clients
from runctl_controller.service.config import ControllerConfig
from runctl_controller.service.engine import Engine
from runctl_controller.service.executor import Executor
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.lock import held
from runctl_controller.service.loop import Loop
from runctl_controller.service.secrets import Secrets
from runctl_controller.store.port import Store
from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import Address, Bus, Stream
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.errors import NoController
from runctl_shared.messages.replies import Status

log = logging.getLogger("runctl.controller")
CONNECT_TIMEOUT = 30.0


Providers = Mapping[str, Provider]


def this_computer(config: ControllerConfig, clock: Clock) -> Providers:
    """Every provider there is, by name."""
    return {"local": LocalProvider(config.machines, clock)}


def serve(
    config: ControllerConfig,
    ready: Callable[[], None] = lambda: None,
    providers: Callable[[ControllerConfig, Clock], Providers] = this_computer,
) -> None:
    """Be the controller of `config.state_dir` until told to stop, or idle; `ready` is called once it answers.

    Raises RunctlError when it cannot: another one runs, the state cannot be used, the bus refuses.
    """
    from runctl_controller.store.sql.store import SqlStore

    clock = SystemClock()
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(config.lock):
        store = SqlStore(f"sqlite:///{config.database}")
        bus = connect(config.bus, clock=clock, name="controller")
        try:
            _connected(bus, config)
            _serve(config, clock, store, bus, providers(config, clock), ready)
        finally:
            bus.close()
            store.close()


def _connected(bus: Bus, config: ControllerConfig) -> None:
    if not bus.wait_connected(CONNECT_TIMEOUT):
        raise NoController(
            f"The bus did not answer within {CONNECT_TIMEOUT:.0f} s.",
            "Is the broker running, and RUNCTL_BUS_URL right? `runctl config show` tells.",
        )
    bus.declare_controller()


def _serve(
    config: ControllerConfig,
    clock: Clock,
    store: Store,
    bus: Bus,
    providers: Providers,
    ready: Callable[[], None],
) -> None:
    store.take_over()
    world = World(
        installation=store.installation(),
        bus=config.bus,
        offers=tuple(offer for provider in providers.values() for offer in provider.offers()),
        heartbeat=config.heartbeat,
        lease=config.lease,
        notice_poll=config.notice_poll,
        kill_margin=config.kill_margin,
        boot_limit=config.boot_limit,
    )
    executor = Executor(bus, providers, clock)
    secrets = Secrets(config.state_dir, clock)
    secrets.sweep(store)
    engine, hearing = Engine(store, world), Hearing(world.heartbeat)
    loop = Loop(engine, store, bus, clock, hearing, executor.carry_out, secrets.changed)
    about = _about(config, store, clock)
    clients = Clients(loop, store, clock, about)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    _declare_agents(bus, store)
    subscriptions = [
        bus.subscribe(Address(Stream.EVENTS), loop.on_event),
        bus.subscribe(Address(Stream.HEARTBEATS), loop.on_heartbeat, prefetch=500),
        bus.subscribe(Address(Stream.REQUESTS), clients.on_request),
    ]
    log.info("controller.ready pid=%d installation=%s", os.getpid(), about.installation)
    ready()
    loop.run(_idle(config, clock, store, clients))
    for subscription in subscriptions:
        subscription.close()
    clients.close()


def _declare_agents(bus: Bus, store: Store) -> None:
    """The queues of living agents: the bus makes them anew on each reconnect only if it knows of them."""
    with store.transaction() as tx:
        records = [record for run in tx.busy() if (record := tx.load(run)) is not None]
    for record in records:
        for machine in record.machines:
            if machine.state is not MachineState.TERMINATED:
                bus.declare_agent(machine.id)


def _about(config: ControllerConfig, store: Store, clock: Clock) -> Status:
    return Status(
        pid=os.getpid(),
        version=__version__,
        installation=store.installation(),
        started_at=clock.now(),
        embedded=config.embedded,
        unfinished=0,
        machines=0,
        bus=config.bus.split("://", 1)[0],
        state_dir=str(config.state_dir),
    )


def _idle(config: ControllerConfig, clock: Clock, store: Store, clients: Clients) -> Callable[[], bool]:
    """Whether an embedded controller may end: nothing to do, and nobody has asked for a while."""

    def idle() -> bool:
        if not config.embedded or clock.monotonic() - clients.last_asked < config.idle:
            return False
        with store.transaction() as tx:
            return not tx.busy()

    return idle
