"""Commands under load: a sender that repeats what is not confirmed, and an agent's own core that receives.

The receiver is the real core over the real spool; it acts on a SaveNow, has the save done, and is sometimes
killed after it has acted and before it has acknowledged.
"""

from __future__ import annotations

import itertools
import queue
import random
import threading
from contextlib import closing
from pathlib import Path

import msgspec

from runctl_agent.core.effects import AskToSave
from runctl_agent.core.inputs import CommandArrived, Stored
from runctl_agent.core.phases import Phase
from runctl_agent.engine import Engine, event_bytes, first_state
from runctl_agent.spool.sqlite import SqliteSpool
from runctl_shared.bus.amqp import AmqpBus
from runctl_shared.bus.port import Bus, BusUnavailable, Delivery
from runctl_shared.clock import FakeClock
from runctl_shared.messages.codec import decode, encode
from runctl_shared.messages.commands import SaveNow
from runctl_shared.spec import Boot
from runctl_testing.buses import PATIENCE, command
from runctl_testing.checkpoints import SPEC
from runctl_testing.eventually import eventually
from runctl_testing.set_checker import verdict

WINDOW = 10
"""Orders under way at once: far fewer than an agent remembers."""
KILLED = 0.02
"""How likely the receiver is killed after it has acted."""


class Receiver:
    """Agent `agent` at the broker `url`, its spool in `folder`. `dice` says when it is killed."""

    def __init__(self, url: str, agent: str, folder: Path, dice: random.Random) -> None:
        self.acted: list[str] = []
        self.changed = threading.Condition()
        self._url, self._folder, self._dice = url, folder, dice
        self._clock = FakeClock()
        self._boot = Boot(agent=agent, attempt=1, spec=SPEC, bus=url, hard_end=1e9)
        self._inbox: queue.SimpleQueue[Delivery | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="receiver")

    def __enter__(self) -> Receiver:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._inbox.put(None)
        self._thread.join(PATIENCE)

    def _live(self) -> None:
        while not self._over.is_set():
            self._one_life()

    def _one_life(self) -> None:
        """From a start to a kill, or until it is told to end."""
        inbox = self._inbox = queue.SimpleQueue()
        spool = SqliteSpool(
            self._folder / "spool.db", lambda body, number, at: event_bytes(self._boot, body, number, at)
        )
        with closing(spool), closing(AmqpBus(self._url)) as bus:
            if spool.load() is None:
                state = first_state(self._boot, self._clock.monotonic())
                training = msgspec.structs.replace(state, phase=Phase.TRAINING)
                spool.commit(msgspec.msgpack.encode(training), [], 0.0)
            engine = Engine(spool, self._boot, self._clock.monotonic())
            bus.subscribe(command(self._boot.agent), inbox.put)
            while not self._over.is_set() and (delivery := inbox.get()) is not None:
                self._act(engine, delivery)
                if self._dice.random() < KILLED:
                    return  # what it was handed goes back unacknowledged
                delivery.ack()

    def _act(self, engine: Engine, delivery: Delivery) -> None:
        message = decode(delivery.body)
        id, now = message.envelope.id, self._clock.monotonic()
        given = CommandArrived(at=now, id=id, attempt=1, kind=message.envelope.kind, body=message.body)
        if any(isinstance(effect, AskToSave) for effect in engine.handle(given, 0.0)):
            with self.changed:
                self.acted.append(id)
                self.changed.notify_all()
            saved = Stored(
                at=now, manifest="m", step=1, epoch=None, size=1, files=1, format="npz", written_at=now,
                wall=0.0, upload_seconds=0.0,
            )  # fmt: skip
            engine.handle(saved, 0.0)


class Orders:
    """A controller that orders `agent` to save, again and again, for as long as the block runs; never many
    more than `receiver` has acted upon."""

    def __init__(self, bus: Bus, agent: str, receiver: Receiver) -> None:
        self.attempted: set[str] = set()
        self.confirmed: set[str] = set()
        self._bus, self._agent, self._receiver = bus, agent, receiver
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send, name="orders")

    def __enter__(self) -> Orders:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)

    def wait_more(self, count: int) -> None:
        """Until `count` more have been confirmed than now."""
        goal = len(self.confirmed) + count
        eventually(lambda: len(self.confirmed) >= goal, PATIENCE, what=f"{goal} orders confirmed")

    def each_done_once(self) -> None:
        """Whatever was confirmed is acted upon, once, however often it came; nothing else is."""
        acted = self._receiver.acted
        eventually(
            lambda: not verdict(self.attempted, self.confirmed, acted).lost,
            PATIENCE,
            what=f"all of {len(self.confirmed)} confirmed orders to be acted upon",
        )
        found = verdict(self.attempted, self.confirmed, acted)
        assert not found.unexpected, found
        assert not found.duplicated, found

    def _send(self) -> None:
        numbers = itertools.count()
        waiting: list[str] = []
        while not self._stop.is_set() or waiting:
            while len(waiting) < WINDOW and not self._stop.is_set():
                waiting.append(f"cmd-{next(numbers)}")
            with self._receiver.changed:
                if not self._receiver.changed.wait_for(self._has_caught_up, timeout=0.5):
                    continue
            self.attempted.update(waiting)
            sent = [
                (id, self._bus.publish(command(self._agent), self._order(id), message_id=id))
                for id in waiting
            ]
            for id, future in sent:
                error = future.exception(PATIENCE)
                assert error is None or isinstance(error, BusUnavailable), error
                if error is None:
                    self.confirmed.add(id)
                    waiting.remove(id)

    def _has_caught_up(self) -> bool:
        return len(self._receiver.acted) + 2 * WINDOW >= len(self.confirmed)

    def _order(self, id: str) -> bytes:
        return encode(SaveNow(), id=id, run=SPEC.run, attempt=1, agent=self._agent, sent=0.0)
