"""A whole agent inside the test: the real service, with real trainings, in a thread."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from runctl_agent.core import inputs
from runctl_agent.core.model import State
from runctl_agent.core.phases import Phase
from runctl_agent.edges.place import Place
from runctl_agent.engine import event_bytes, first_state
from runctl_agent.notices.model import Notice
from runctl_agent.service import Service
from runctl_agent.spool.memory import MemoryDisk, MemorySpool
from runctl_agent.spool.port import Pending
from runctl_shared import ids
from runctl_shared.bus.connect import connect
from runctl_shared.checkpoints.memory import MemoryStore
from runctl_shared.checkpoints.objects import ObjectStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import SystemClock
from runctl_shared.messages.base import Body
from runctl_shared.messages.commands import StartTraining
from runctl_shared.messages.events import Registered
from runctl_shared.spec import Boot, Timing
from runctl_testing.checkpoints import RUN, SPEC
from runctl_testing.eventually import eventually

HELLO = Registered(protocol=1, version="test", capabilities=())


class FullDisk(MemorySpool):
    """A spool that takes nothing while it is `full`."""

    full = False

    def commit(self, state: bytes, reports: Sequence[Body], at: float) -> Sequence[Pending]:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().commit(state, reports, at)


class Agent:
    """An agent on a machine in `folder`, whose training is `command`. Of the one before it that died:
    `phase`, in which it did so, or `disk`, what it left. `store`: where checkpoints go, if not to memory."""

    def __init__(
        self,
        folder: Path,
        command: tuple[str, ...],
        phase: Phase | None = None,
        disk: MemoryDisk | None = None,
        stall_notice: float = 1800.0,
        *,
        attempt: int = 1,
        store: ObjectStore | None = None,
    ) -> None:
        self.clock = SystemClock()
        self.folder = folder
        self.place = Place(folder / f"machine-{attempt}")
        self.place.prepare()
        spec = msgspec.structs.replace(SPEC, command=command, workdir=str(folder), grace=60.0)
        timing = Timing(heartbeat=0.1, stall_notice=stall_notice)
        url = f"sqlite://{folder / 'bus.db'}"
        name = ids.agent_id(RUN, attempt)
        self.boot = Boot(agent=name, attempt=attempt, spec=spec, bus=url, hard_end=3600.0, timing=timing)
        self.disk = disk or MemoryDisk()
        if phase is not None:
            state = first_state(self.boot, self.clock.monotonic())
            self.disk.state = msgspec.msgpack.encode(msgspec.structs.replace(state, phase=phase))
        self.spool = FullDisk(self._message, self.disk)
        self.bus = connect(url, clock=self.clock, name=self.boot.agent)
        self.bus.declare_controller()
        self.bus.declare_agent(self.boot.agent)
        self.repository = RunRepository(store or MemoryStore(), RUN, clock=self.clock)
        self.repository.write_spec(spec)
        self.service = Service(self.boot, self.place, self.clock, self.bus, self.spool, self.repository)
        self._thread = threading.Thread(target=self.service.run, args=(HELLO,), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def trains(self) -> None:
        """With the permission to train; returns when the training has printed something."""
        self.start()
        self.command(StartTraining())
        self.until(Phase.TRAINING)
        eventually(lambda: self.place.output.stat().st_size)

    def command(self, body: Body, id: str = "cmd-1") -> None:
        kind = type(body).__name__
        now = self.clock.monotonic()
        attempt = self.boot.attempt
        self.service.tell(inputs.CommandArrived(at=now, id=id, attempt=attempt, kind=kind, body=body))

    def notice(self, seconds: float = 600.0) -> None:
        self.service.on_notice(
            Notice(kind="interruption", action="terminate", id="interruption-terminate", deadline_in=seconds)
        )

    @property
    def state(self) -> State:
        return self.service._engine.state

    def until(self, phase: Phase) -> None:
        eventually(lambda: self.state.phase is phase, what=phase.value)

    def told(self) -> list[str]:
        """The kinds of the events that the disk has, in the order of their numbers."""
        pending = self.spool.pending()
        assert [item.sequence for item in pending] == list(range(1, len(pending) + 1))
        return [item.kind for item in pending]

    def ends(self) -> None:
        """Returns when it has ended by itself."""
        self._thread.join(60)
        assert not self._thread.is_alive(), self.state
        self.bus.close()

    def close(self) -> None:
        """End it with its training, wherever it is."""
        if self._thread.is_alive():
            self.service._training.kill()
            self.service._inbox.put(lambda: setattr(self.service._hands, "stopped", True))
            self._thread.join(60)
        self.bus.close()

    def _message(self, body: Body, sequence: int, at: float) -> bytes:
        return event_bytes(self.boot, body, sequence, at)
