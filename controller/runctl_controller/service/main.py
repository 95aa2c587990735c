"""Wiring of a controller's process."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Protocol

from runctl_controller import __version__
from runctl_controller.access.open import checked_access
from runctl_controller.access.sweeper import Sweeper
from runctl_controller.core.inputs import World
from runctl_controller.core.leadership import LOOKS
from runctl_controller.core.tables import MachineState
from runctl_controller.providers.local.provider import LocalProvider
from runctl_controller.providers.port import Provider
from runctl_controller.service.clients import Clients
from runctl_controller.service.config import ControllerConfig
from runctl_controller.service.engine import Engine
from runctl_controller.service.executor import Executor
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.lock import Seat, holder, holders
from runctl_controller.service.loop import Loop
from runctl_controller.service.secrets import Secrets
from runctl_controller.service.standby import Led, lead
from runctl_controller.store.port import Store
from runctl_shared.bus.connect import connect
from runctl_shared.bus.port import Address, Bus, Stream, Subscription
from runctl_shared.clock import Clock, SystemClock
from runctl_shared.errors import NoController, RefusedByGuard
from runctl_shared.messages.replies import Status

log = logging.getLogger("runctl.controller")
CONNECT_TIMEOUT = 30.0


Providers = Mapping[str, Provider]


class Connect(Protocol):
    """As `runctl_shared.bus.connect.connect`."""

    def __call__(self, url: str, *, clock: Clock, name: str) -> Bus: ...


def this_computer(config: ControllerConfig, clock: Clock) -> Providers:
    """Every provider there is, by name."""
    return {"local": LocalProvider(config.machines, clock)}


def serve(
    config: ControllerConfig,
    ready: Callable[[], None] = lambda: None,
    providers: Callable[[ControllerConfig, Clock], Providers] = this_computer,
    standing_by: Callable[[], None] = lambda: None,
    connect: Connect = connect,
) -> None:
    """Be the controller of `config.state_dir` until told to stop, or idle; `ready` is called once it answers,
    `standing_by` once it waits for its turn. `connect` finds the controller's own way to the bus.

    Raises RunctlError when it cannot: another one runs, the state cannot be used, the bus refuses; Superseded
    when another one has taken over.
    """
    clock = SystemClock()
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with closing(Seat(config.lock)) as seat:
        if not seat.take() and not config.standby:
            raise RefusedByGuard(
                f"A controller is running already (process {holder(config.lock) or 'unknown'}).",
                "`runctl controller status` shows it, `runctl controller stop` ends it;"
                " if it does not answer, `runctl controller start --standby` takes over.",
            )
        with closing(connect(config.bus, clock=clock, name="controller")) as bus:
            _connected(bus, config)
            led = lead(config, seat, bus, clock, standing_by)
            if led is not None:
                with closing(led.store):
                    bus.declare_controller(alone=True)
                    _serve(config, clock, led, seat, bus, providers(config, clock), ready)


def _connected(bus: Bus, config: ControllerConfig) -> None:
    if bus.wait_connected(CONNECT_TIMEOUT):
        return
    if config.standby:  # it has time, and whoever leads may be what keeps the bus from answering
        log.warning("standby.no-bus seconds=%.0f: it goes on trying", CONNECT_TIMEOUT)
        return
    raise NoController(
        f"The bus did not answer within {CONNECT_TIMEOUT:.0f} s.",
        "Is the broker running, and RUNCTL_BUS_URL right? `runctl config show` tells; "
        "`runctl broker dev` starts one to try things with.",
    )


def _serve(
    config: ControllerConfig,
    clock: Clock,
    led: Led,
    seat: Seat,
    bus: Bus,
    providers: Providers,
    ready: Callable[[], None],
) -> None:
    store = led.store
    access = checked_access(config, store.installation(), clock)
    world = _world(config, store.installation(), access.bus, providers)
    executor = Executor(bus, providers, clock, world.installation, access)
    secrets = Secrets(config.state_dir, clock)
    secrets.sweep(store)
    engine, hearing = Engine(store, world), Hearing(world.heartbeat)

    def renew() -> None:
        store.renew()
        seat.keep()

    every = config.takeover / LOOKS
    loop = Loop(engine, store, bus, clock, hearing, executor.carry_out, secrets.changed, renew, every)
    about = _about(config, led, clock)
    clients = Clients(loop, store, clock, about, providers, lambda: holders(config.standbys))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    _declare_agents(bus, store, loop.show_well)
    sweeper = Sweeper(access, store, clock)
    sweeper.start()
    subscriptions = _listen(bus, loop, clients)
    log.info(
        "controller.ready process=%d epoch=%d installation=%s", about.pid, about.epoch, about.installation
    )
    ready()
    loop.run(_idle(config, clock, store, clients))
    for subscription in subscriptions:
        subscription.close()
    clients.close()
    sweeper.close()
    if loop.superseded is not None:
        raise loop.superseded


def _world(config: ControllerConfig, installation: str, bus: str, providers: Providers) -> World:
    return World(
        installation=installation,
        bus=bus,
        offers=tuple(offer for provider in providers.values() for offer in provider.offers()),
        heartbeat=config.heartbeat,
        lease=config.lease,
        notice_poll=config.notice_poll,
        kill_margin=config.kill_margin,
        boot_limit=config.boot_limit,
    )


def _listen(bus: Bus, loop: Loop, clients: Clients) -> list[Subscription]:
    return [
        bus.subscribe(Address(Stream.EVENTS), loop.on_event),
        bus.subscribe(Address(Stream.HEARTBEATS), loop.on_heartbeat, prefetch=500),
        bus.subscribe(Address(Stream.REQUESTS), clients.on_request),
    ]


def _declare_agents(bus: Bus, store: Store, between: Callable[[], None]) -> None:
    """The queues of living agents: the bus makes them anew on each reconnect only if it knows of them."""
    with store.transaction() as tx:
        records = [record for run in tx.busy() if (record := tx.load(run)) is not None]
    for record in records:
        between()
        for machine in record.machines:
            if machine.state is not MachineState.TERMINATED:
                bus.declare_agent(machine.id)


def _about(config: ControllerConfig, led: Led, clock: Clock) -> Status:
    return Status(
        pid=os.getpid(),
        version=__version__,
        installation=led.store.installation(),
        started_at=clock.now(),
        embedded=config.embedded,
        unfinished=0,
        machines=0,
        bus=config.bus.split("://", 1)[0],
        state_dir=str(config.state_dir),
        epoch=led.leadership.epoch,
        leads_since=led.leadership.since,
        takeover=config.takeover,
    )


def _idle(config: ControllerConfig, clock: Clock, store: Store, clients: Clients) -> Callable[[], bool]:
    """Whether an embedded controller may end: nothing to do, and nobody has asked for a while."""

    def idle() -> bool:
        if not config.embedded or clock.monotonic() - clients.last_asked < config.idle:
            return False
        with store.transaction() as tx:
            return not tx.busy()

    return idle
