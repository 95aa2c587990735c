"""Driving the controller's core by hand: a record, the input of the moment, and what is wanted then."""

from __future__ import annotations

from typing import TypeVar

from runctl_controller.core import effects, inputs
from runctl_controller.core.decide import Decision, decide
from runctl_controller.core.model import Attempt, Machine, Record, Run
from runctl_controller.core.tables import RunState
from runctl_controller.providers.port import MachineState as Provided
from runctl_controller.providers.port import Offer, Sighting
from runctl_shared.messages import events, requests
from runctl_shared.messages.base import Body
from runctl_shared.spec import RunSpec

OFFER = Offer(provider="local", kind="here", place="here", price=3600.0, spot=True, notice=120.0)
WORLD = inputs.World(installation="inst-1234", bus="sqlite:///x", offers=(OFFER,), lease=300.0)
E_ = TypeVar("E_", bound=effects.Effect)


class Controller:
    """A record, and what was wanted on the way to it. `at` is the time of the next input."""

    def __init__(self, max_restarts: int = 0, max_seconds: float | None = None) -> None:
        spec = RunSpec(
            run="run-test", name="test", command=("true",), workdir="/", store="memory://",
            max_restarts=max_restarts, max_seconds=max_seconds,
        )  # fmt: skip
        self.record = Record(run=Run(spec=spec))
        self.at = 1000.0
        self.last: Decision | None = None
        self._sequences: dict[int, int] = {}
        self.request(requests.SubmitRun(spec=spec))

    def give(self, given: inputs.Input) -> Decision:
        self.last = decide(self.record, given, WORLD)
        self.record = self.last.record
        return self.last

    def request(self, body: Body) -> Decision:
        return self.give(inputs.Requested(at=self.at, actor="user:me", body=body))

    def agent(self, attempt: int) -> str:
        return f"agent-test-{attempt}"

    def hear(self, attempt: int, *bodies: Body) -> Decision:
        """Events of that attempt's agent, each with its next number."""
        for body in bodies:
            number = self._sequences[attempt] = self._sequences.get(attempt, 0) + 1
            given = inputs.Heard(at=self.at, agent=self.agent(attempt), sequence=number, body=body)
            self.give(given)
        assert self.last is not None
        return self.last

    def timer(self, key: str) -> Decision:
        return self.give(inputs.TimerFired(at=self.at, key=key))

    def sighting(self, attempt: int, state: Provided, **more: object) -> Sighting:
        name = self.agent(attempt)
        known = state is not Provided.ABSENT
        fields = {
            "token": name,
            "machine": name,
            "provider_id": name if known else "",
            "state": state,
            **more,
        }
        return Sighting(**fields)  # type: ignore[arg-type]  # the fields of each test

    def launched(self, attempt: int) -> Decision:
        seen = self.sighting(attempt, Provided.PENDING, launched_at=self.at)
        return self.give(inputs.LaunchAnswered(at=self.at, machine=self.agent(attempt), sighting=seen))

    def seen(self, attempt: int, state: Provided, **more: object) -> Decision:
        seen = self.sighting(attempt, state, **more)
        return self.give(inputs.Seen(at=self.at, machine=self.agent(attempt), sighting=seen))

    def ready(self, attempt: int) -> Decision:
        self.launched(attempt)
        return self.hear(attempt, REGISTERED, events.Staged())

    def train(self, attempt: int = 1) -> None:
        self.ready(attempt)
        self.hear(attempt, STARTED)

    def attempt(self, number: int) -> Attempt:
        found = self.record.attempt(number)
        assert found is not None
        return found

    def machine(self, attempt: int) -> Machine:
        found = self.record.machine(self.agent(attempt))
        assert found is not None
        return found

    def state(self) -> RunState:
        return self.record.run.state


REGISTERED = events.Registered(protocol=1, version="1", capabilities=())
STARTED = events.TrainingStarted(pid=1, resumed_from=None, restored_step=None)
NOTICE = events.NoticeReceived(
    notice="n1", kind="interruption", action="terminate", deadline=120.0, source="imds"
)


def wanted(decision: Decision, kind: type[E_]) -> list[E_]:
    return [effect for effect in decision.effects if isinstance(effect, kind)]


def sent(decision: Decision) -> list[type]:
    return [type(effect.body) for effect in wanted(decision, effects.SendCommand)]


def committed(step: int) -> events.CheckpointCommitted:
    return events.CheckpointCommitted(
        manifest="m", step=step, epoch=None, size=1, files=1, format="npz", trigger="periodic",
        upload_seconds=0.1, written_at=1.0,
    )  # fmt: skip


def ended(reason: str, **more: object) -> events.AttemptEnded:
    return events.AttemptEnded(reason=reason, **more)  # type: ignore[arg-type]  # the fields of each test
