"""Carrying out the effects that leave the process. Each becomes one call, and its outcome one input."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from runctl_controller.access.port import Access, AccessFailed
from runctl_controller.access.shared import NoLogins
from runctl_controller.core import effects, inputs
from runctl_controller.core.keeping import keep
from runctl_controller.core.model import Record
from runctl_controller.providers.port import LaunchOrder, Provider, Throttled
from runctl_shared.bus.port import Address, Bus, Stream, Unroutable
from runctl_shared.checkpoints.objects import FOR_A_PERSON, ObjectStoreError
from runctl_shared.checkpoints.open import open_store
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import Clock
from runctl_shared.errors import ProviderFailed, RunctlError
from runctl_shared.messages.codec import encode
from runctl_shared.messages.events import AttemptEnded

log = logging.getLogger("runctl.executor")
CONFIRM_TIMEOUT = 30.0


class TryLater(Exception):
    """It did not work now; the effect stays in the outbox."""


class Executor:
    """Called from worker threads. Raises TryLater where the same thing is to be tried again."""

    def __init__(
        self,
        bus: Bus,
        providers: Mapping[str, Provider],
        clock: Clock,
        installation: str = "inst-none",
        access: Access | None = None,
    ) -> None:
        self._installation = installation
        self._bus = bus
        self._access = access or NoLogins()
        self._providers = providers
        self._clock = clock
        self._how: dict[type[effects.Effect], Callable[[Record, Any], inputs.Input | None]] = {
            effects.SendCommand: self._send,
            effects.Launch: self._launch,
            effects.Terminate: self._terminate,
            effects.Interrupt: self._interrupt,
            effects.Look: self._look,
            effects.ReadEnd: self._read_end,
            effects.ReadCommits: self._read_commits,
            effects.Deposit: self._deposit,
            effects.ForgetAgent: self._forget,
        }

    def carry_out(self, record: Record, effect: effects.Effect) -> inputs.Input | None:
        """Do it; the input that its outcome is to the core, None if it has none."""
        return self._how[type(effect)](record, effect)

    def _order(self, record: Record, name: str) -> tuple[Provider, LaunchOrder]:
        machine = record.machine(name)
        if machine is None:
            raise LookupError(f"{name} is not on record")
        return self._providers[machine.order.offer.provider], machine.order

    def _send(self, record: Record, effect: effects.SendCommand) -> None:
        machine = record.machine(effect.agent)
        if machine is not None and machine.state.value == "terminated":
            return
        data = encode(
            effect.body,
            id=effect.id,
            run=record.run.id,
            attempt=effect.attempt,
            agent=effect.agent,
            sent=self._clock.now(),
        )
        to = Address(Stream.COMMANDS, effect.agent, type(effect.body).__name__)
        try:
            try:
                sent = self._bus.publish(to, data, message_id=effect.id, expires=effect.expires)
                sent.result(CONFIRM_TIMEOUT)
            except Unroutable:
                # Evidence of nothing about the agent: the queue may have been lost with a broker.
                self._bus.declare_agent(effect.agent)
                raise
        except (RunctlError, TimeoutError) as error:
            raise TryLater(str(error)) from error

    def _launch(self, record: Record, effect: effects.Launch) -> inputs.Input:
        provider, order = self._order(record, effect.machine)
        try:
            self._bus.declare_agent(effect.machine)
        except RunctlError as error:
            raise TryLater(str(error)) from error
        try:
            self._access.admit(effect.machine, order.hard_end)
            sighting = provider.launch(msgspec.structs.replace(order, login=self._access.gives_logins))
        except (AccessFailed, ProviderFailed) as error:
            code = error.code if isinstance(error, ProviderFailed) else Throttled.code
            return inputs.LaunchAnswered(
                at=self._clock.now(), machine=effect.machine, error=code, detail=str(error)
            )
        return inputs.LaunchAnswered(at=self._clock.now(), machine=effect.machine, sighting=sighting)

    def _terminate(self, record: Record, effect: effects.Terminate) -> inputs.Input:
        provider, order = self._order(record, effect.machine)
        log.info("machine.terminate machine=%s actor=%s", effect.machine, effect.actor)
        try:
            provider.terminate(order)
        except ProviderFailed as error:
            return inputs.TerminateAnswered(
                at=self._clock.now(), machine=effect.machine, error=error.code, detail=str(error)
            )
        return inputs.TerminateAnswered(at=self._clock.now(), machine=effect.machine)

    def _interrupt(self, record: Record, effect: effects.Interrupt) -> inputs.Input:
        provider, order = self._order(record, effect.machine)
        try:
            if effect.withdraw:
                provider.withdraw(order, effect.kind)
            else:
                provider.interrupt(order, effect.notice, effect.kind)
        except ProviderFailed as error:
            return inputs.InterruptAnswered(
                at=self._clock.now(), machine=effect.machine, error=error.code, detail=str(error)
            )
        return inputs.InterruptAnswered(at=self._clock.now(), machine=effect.machine)

    def _look(self, record: Record, effect: effects.Look) -> inputs.Input:
        provider, order = self._order(record, effect.machine)
        try:
            (sighting,) = provider.describe([order])
        except ProviderFailed as error:
            return inputs.Seen(at=self._clock.now(), machine=effect.machine, sighting=None, detail=str(error))
        return inputs.Seen(at=self._clock.now(), machine=effect.machine, sighting=sighting)

    def _read_end(self, record: Record, effect: effects.ReadEnd) -> inputs.Input:
        spec = record.run.spec
        try:
            data = RunRepository(open_store(spec.store, create=False), spec.run).read_end(effect.attempt)
            found = None if data is None else msgspec.json.decode(data, type=AttemptEnded)
        except (RunctlError, OSError) as error:
            return inputs.EndRead(at=self._clock.now(), attempt=effect.attempt, error=str(error))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            log.warning("end-record.damaged run=%s attempt=%d", spec.run, effect.attempt)
            found = None
        return inputs.EndRead(at=self._clock.now(), attempt=effect.attempt, record=found)

    def _read_commits(self, record: Record, effect: effects.ReadCommits) -> inputs.Input:
        spec = record.run.spec
        try:
            names = RunRepository(open_store(spec.store, create=False), spec.run).manifests()
        except (RunctlError, OSError) as error:
            return inputs.CommitsRead(at=self._clock.now(), attempt=effect.attempt, error=str(error))
        own = [parts.name for parts in names if parts.attempt == effect.attempt]
        return inputs.CommitsRead(at=self._clock.now(), attempt=effect.attempt, newest=max(own, default=None))

    def _deposit(self, record: Record, effect: effects.Deposit) -> None:
        """A copy: where it cannot be put, the run goes on without."""
        spec = record.run.spec
        try:
            repository = RunRepository(open_store(spec.store, create=False), spec.run)
            repository.write_record(keep(record, self._installation, self._clock.now()))
        except (RunctlError, OSError) as error:
            if isinstance(error, ObjectStoreError) and not isinstance(error, FOR_A_PERSON):
                raise TryLater(str(error)) from error
            log.warning("record.not-kept run=%s: %s", spec.run, error)

    def _forget(self, record: Record, effect: effects.ForgetAgent) -> None:
        try:
            self._access.revoke(effect.agent)
            self._bus.remove_agent(effect.agent)
        except AccessFailed as error:
            log.warning("access.not-revoked agent=%s reason=%s", effect.agent, error)
            raise TryLater(str(error)) from error
        except RunctlError as error:
            raise TryLater(str(error)) from error
