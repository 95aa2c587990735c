"""What is fuzzed: functions of any bytes that must return, whatever the bytes are.

`make fuzz` drives them with coverage as its guide; `make test` replays what was worth keeping.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from runctl_controller.core.inputs import Requested, World
from runctl_controller.providers.port import Offer
from runctl_controller.service.engine import Engine
from runctl_controller.service.hearing import Hearing
from runctl_controller.service.loop import Loop
from runctl_controller.store.port import Store
from runctl_shared.bus.port import Address
from runctl_shared.clock import FakeClock
from runctl_shared.ids import agent_id
from runctl_shared.messages.base import Body
from runctl_shared.messages.codec import Malformed, Message, decode, encode
from runctl_shared.messages.requests import SubmitRun
from runctl_shared.spec import RunSpec

MOST_EVENTS = 40
"""Of one input: a longer life says nothing new."""


def decode_any(data: bytes) -> Message[Any] | None:
    """Raises AssertionError, or what `decode` must not raise. What it accepts can be said again."""
    try:
        message = decode(data)
    except Malformed as error:
        why = str(error)
    else:
        return _said_again(message)
    assert 0 < len(why) < 400
    return None


def _said_again(message: Message[Any]) -> Message[Any]:
    if message.envelope.kind == type(message.body).__name__:  # else of a kind that is unknown here
        again = decode(encode(message.body, id=message.envelope.id))
        assert type(again.body) is type(message.body)
    return message


def pieces(data: bytes) -> Iterator[bytes]:
    """`data` as messages: each after its length in two bytes, the last as long as there is any."""
    for _ in range(MOST_EVENTS):
        if len(data) < 3:
            return
        length = int.from_bytes(data[:2], "big")
        yield data[2 : 2 + length]
        data = data[2 + length :]


def join(messages: list[bytes]) -> bytes:
    """The inverse of `pieces`."""
    return b"".join(len(one).to_bytes(2, "big") + one for one in messages)


class Listener:
    """A controller's loop without its thread, which hears one agent after the other."""

    def __init__(self, store: Store) -> None:
        self._clock = FakeClock(now=1.7e9)
        store.take_over()
        self._store = store
        offer = Offer(provider="local", kind="local", place="here", price=1.0, spot=True, notice=120.0)
        world = World(installation="inst-fuzz", bus="sqlite:///bus", offers=(offer,))
        self._engine = Engine(store, world)
        self.failed: list[BaseException] = []
        self._loop = Loop(
            self._engine, store, _Bus(), self._clock, Hearing(10.0), lambda record, effect: None
        )
        self._numbers = itertools.count(1000)

    def hear(self, data: bytes) -> None:
        """A life: `data` holds its events (see `pieces`), which come with the numbers that are due, whatever
        they claim; every third also as a heartbeat. Raises what is raised on the way."""
        run = f"run-{next(self._numbers):08d}"
        spec = RunSpec(run=run, name=run, command=("true",), workdir="/", store="file:///s")
        self._engine.request("", Requested(at=self._clock.now(), actor="user:me", body=SubmitRun(spec=spec)))
        for number, piece in enumerate(pieces(data), start=1):
            self._clock.advance(1.0)
            message = decode_any(piece)
            if message is None:
                continue
            self._say(run, message.body, number, message.envelope.sent)
            if number % 3 == 0:
                self._loop._heartbeat(_Delivery(agent_id(run, 1), piece))
        for _, outcome in self._engine.fire_due(self._clock.now() + 1e6):
            self._loop._publish(run, outcome)
        with self._store.transaction() as tx:
            assert tx.load(run) is not None

    def _say(self, run: str, body: Body, number: int, sent: float) -> None:
        # An Unknown body has no kind of its own to be sent under; it goes as it came.
        agent = agent_id(run, 1)
        with self._store.transaction() as tx:
            record = tx.load(run)
        assert record is not None
        due = record.attempts[0].events_through + 1
        data = encode(body, id=f"e-{number}", sequence=due, sent=sent, agent=agent, run=run, attempt=1)
        self._loop._event(_Delivery(agent, data))


class _Delivery:
    topic = ""
    message_id = ""
    redelivered = False

    def __init__(self, sender: str, body: bytes) -> None:
        self.sender, self.body = sender, body

    def ack(self) -> None:
        pass

    def requeue(self) -> None:
        pass

    def dead_letter(self, reason: str) -> None:
        assert len(reason) < 500

    def reply(self, body: bytes) -> None:
        pass


class _Bus:
    """Takes everything; what it is given must be what others can read."""

    def publish(
        self, to: Address, body: bytes, *, message_id: str, expires: float | None = None
    ) -> Future[None]:
        decode(body)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the loop called {name}")


def corpus(name: str) -> list[Path]:
    """The kept inputs of one target."""
    folder = Path(__file__).resolve().parents[2] / "fuzz" / "corpus" / name
    return sorted(path for path in folder.iterdir() if path.is_file())


@contextlib.contextmanager
def listener(folder: Path | None = None) -> Iterator[Listener]:
    """Over the store in memory, or over that of a real controller in `folder`."""
    from runctl_controller.store.memory import MemoryStore
    from runctl_controller.store.sql.store import SqlStore

    store: Store = MemoryStore() if folder is None else SqlStore(f"sqlite:///{folder / 'controller.db'}")
    try:
        yield Listener(store)
    finally:
        store.close()
