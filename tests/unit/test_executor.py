"""Each effect becomes one call, and its outcome, good or bad, one input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from runctl_controller.core import effects, inputs
from runctl_controller.core.model import Record
from runctl_controller.core.tables import MachineState
from runctl_controller.providers.fake import FakeProvider
from runctl_controller.providers.port import EndCause, NoCapacity, QuotaExceeded, Refused, Throttled
from runctl_controller.providers.port import MachineState as Provided
from runctl_controller.service.executor import Executor, TryLater
from runctl_shared.bus.port import Address, Bus, BusUnavailable, Stream
from runctl_shared.checkpoints.directory import DirectoryStore
from runctl_shared.checkpoints.repository import RunRepository
from runctl_shared.clock import FakeClock
from runctl_shared.errors import ProviderFailed
from runctl_shared.messages.codec import decode
from runctl_shared.messages.commands import SaveNow, StopTraining
from runctl_shared.messages.events import AttemptEnded
from runctl_testing import checkpoints
from runctl_testing.buses import Buses, Inbox, command
from runctl_testing.records import change_machine, new_run, with_attempt

AGENT = "agent-abcd1234-1"


class Hands:
    """An executor with a fake provider, a real embedded bus and a real folder of checkpoints."""

    def __init__(self, folder: Path, bus: Bus) -> None:
        self.clock = FakeClock()
        self.provider = FakeProvider(self.clock, name="local")
        self.bus = bus
        self.executor = Executor(bus, {"local": self.provider}, self.clock)
        self.store = folder / "checkpoints"
        record = with_attempt(new_run("run-abcd1234"))
        run = msgspec.structs.replace(
            record.run, spec=msgspec.structs.replace(record.run.spec, store=f"file://{self.store}")
        )
        self.record: Record = msgspec.structs.replace(record, run=run)

    def __call__(self, effect: effects.Effect) -> inputs.Input | None:
        return self.executor.carry_out(self.record, effect)

    def repository(self) -> RunRepository:
        repository = RunRepository(DirectoryStore(self.store), "run-abcd1234")
        repository.write_spec(self.record.run.spec)
        return repository


@pytest.fixture
def hands(tmp_path: Path) -> Iterator[Hands]:
    buses = Buses(f"sqlite://{tmp_path / 'bus.db'}")
    yield Hands(tmp_path, buses.controller())
    buses.close()


class TestMachines:
    def test_the_queue_is_there_before_the_machine(self, hands: Hands) -> None:
        answer = hands(effects.Launch(machine=AGENT))
        assert isinstance(answer, inputs.LaunchAnswered)
        assert answer.sighting is not None
        assert (answer.sighting.machine, answer.error) == (AGENT, None)
        assert hands.provider.calls == [("launch", AGENT)]
        hands.bus.publish(command(AGENT), b"x", message_id="m").result(30)  # it has a queue

    def test_the_same_launch_again_is_the_same_machine(self, hands: Hands) -> None:
        first, second = (hands(effects.Launch(machine=AGENT)) for _ in range(2))
        assert isinstance(first, inputs.LaunchAnswered)
        assert isinstance(second, inputs.LaunchAnswered)
        assert first.sighting == second.sighting
        assert hands.provider.burning() == [AGENT]

    @pytest.mark.parametrize("kind", [NoCapacity, QuotaExceeded, Refused, Throttled])
    def test_a_no_of_the_provider_is_an_answer(self, hands: Hands, kind: type[ProviderFailed]) -> None:
        for operation, effect in (
            ("launch", effects.Launch(machine=AGENT)),
            ("terminate", effects.Terminate(machine=AGENT, actor="lifecycle")),
            ("interrupt", effects.Interrupt(machine=AGENT, notice=30.0, actor="user:x")),
        ):
            hands.provider.fail_once(operation, kind("It cannot be done."))
            answer = hands(effect)
            assert isinstance(
                answer, (inputs.LaunchAnswered, inputs.TerminateAnswered, inputs.InterruptAnswered)
            )
            assert (answer.machine, answer.error, answer.detail) == (AGENT, kind.code, "It cannot be done.")
            assert answer.at == hands.clock.now()

    def test_without_a_bus_nothing_is_launched(self, hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
        """A machine whose agent has no queue could never be told anything."""

        def away(agent: str) -> None:
            raise BusUnavailable("The broker is away.")

        monkeypatch.setattr(hands.bus, "declare_agent", away)
        with pytest.raises(TryLater):
            hands(effects.Launch(machine=AGENT))
        assert hands.provider.calls == []

    def test_terminate_and_look(self, hands: Hands) -> None:
        hands(effects.Launch(machine=AGENT))
        assert hands(effects.Terminate(machine=AGENT, actor="user:x")) == inputs.TerminateAnswered(
            at=hands.clock.now(), machine=AGENT
        )
        seen = hands(effects.Look(machine=AGENT))
        assert isinstance(seen, inputs.Seen)
        assert seen.sighting is not None
        assert (seen.sighting.state, seen.sighting.cause) == (Provided.TERMINATED, EndCause.ASKED)

    def test_a_provider_that_cannot_be_asked_is_no_sign_of_an_end(self, hands: Hands) -> None:
        hands.provider.fail_once("describe", Throttled("Too fast."))
        seen = hands(effects.Look(machine=AGENT))
        assert isinstance(seen, inputs.Seen)
        assert (seen.sighting, seen.detail) == (None, "Too fast.")

    def test_a_drill_reaches_the_machine(self, hands: Hands) -> None:
        hands(effects.Launch(machine=AGENT))
        hands(effects.Interrupt(machine=AGENT, notice=30.0, actor="user:x"))
        assert hands.provider.notice(AGENT) == hands.clock.now() + 30.0
        hands(effects.Interrupt(machine=AGENT, notice=30.0, actor="user:x", kind="rebalance"))
        hands(effects.Interrupt(machine=AGENT, notice=0.0, actor="user:x", withdraw=True))
        assert (hands.provider.notice(AGENT), hands.provider.told(AGENT)) == (None, {"rebalance"})


class TestCommands:
    def send(self, hands: Hands, expires: float | None = None) -> None:
        body = StopTraining(grace=5.0)
        hands(effects.SendCommand(agent=AGENT, attempt=1, id="cmd-1", body=body, expires=expires))

    def test_a_command_arrives_with_its_own_id(self, hands: Hands) -> None:
        hands.bus.declare_agent(AGENT)
        inbox = Inbox()
        hands.bus.subscribe(Address(Stream.COMMANDS, AGENT), inbox)
        self.send(hands)
        (delivery,) = inbox.wait(1)
        message = decode(delivery.body)
        assert message.body == StopTraining(grace=5.0)
        head = message.envelope
        assert (head.id, head.run, head.attempt, head.agent) == ("cmd-1", "run-abcd1234", 1, AGENT)
        assert delivery.message_id == "cmd-1"

    def test_a_lost_queue_is_made_again_and_the_command_tried_again(self, hands: Hands) -> None:
        with pytest.raises(TryLater):
            self.send(hands)
        self.send(hands)
        inbox = Inbox()
        hands.bus.subscribe(Address(Stream.COMMANDS, AGENT), inbox)
        inbox.wait(1)

    def test_if_the_queue_cannot_be_made_either_it_is_tried_again_too(
        self, hands: Hands, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(agent: str) -> None:
            raise BusUnavailable("The broker is away.")

        monkeypatch.setattr(hands.bus, "declare_agent", away)
        with pytest.raises(TryLater, match="away"):
            self.send(hands)

    def test_to_a_machine_that_is_gone_nothing_is_sent(self, hands: Hands) -> None:
        hands.record = change_machine(hands.record, 1, state=MachineState.TERMINATED)
        self.send(hands)
        hands.record = change_machine(hands.record, 1, state=MachineState.RUNNING)
        with pytest.raises(TryLater):  # it has no queue: had it been sent, that would have been made
            self.send(hands)

    def test_the_queue_of_an_agent_that_is_gone_is_removed(self, hands: Hands) -> None:
        hands.bus.declare_agent(AGENT)
        assert hands(effects.ForgetAgent(agent=AGENT)) is None
        with pytest.raises(TryLater):
            self.send(hands)

    def test_a_closed_bus_is_a_reason_to_try_later(self, hands: Hands) -> None:
        hands.bus.declare_agent(AGENT)
        hands.bus.close()
        with pytest.raises(TryLater):
            self.send(hands)
        with pytest.raises(TryLater):
            hands(effects.ForgetAgent(agent=AGENT))


class TestCheckpointStore:
    def end(self, hands: Hands) -> inputs.EndRead:
        answer = hands(effects.ReadEnd(attempt=1))
        assert isinstance(answer, inputs.EndRead)
        return answer

    def commits(self, hands: Hands) -> inputs.CommitsRead:
        answer = hands(effects.ReadCommits(attempt=1))
        assert isinstance(answer, inputs.CommitsRead)
        return answer

    def test_the_last_word(self, hands: Hands) -> None:
        record = AttemptEnded(reason="interrupted", saved_step=7, detail="the provider takes the machine")
        hands.repository().write_end(1, record)
        assert self.end(hands).record == record

    def test_there_is_none(self, hands: Hands) -> None:
        hands.repository().write_end(2, AttemptEnded(reason="stopped"))
        answer = self.end(hands)
        assert (answer.record, answer.error) == (None, None)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"{",
            b"[" * 100_000,
            b'{"reason": "bored"}',
            b'{"reason": "\xff"}',
            b'{"reason": "lost", "x": ' + b"[" * 100_000,
            b'{"reason": "lost", "pid": 1}x',
        ],
    )
    def test_a_damaged_one_is_none(self, hands: Hands, data: bytes) -> None:
        hands.repository().write_end(1, data)
        answer = self.end(hands)
        assert (answer.record, answer.error) == (None, None)

    def test_a_store_that_is_not_there_is_no_answer(self, hands: Hands) -> None:
        """A file system that is not mounted must not look like an attempt that said nothing."""
        for answer in (self.end(hands), self.commits(hands)):
            assert answer.error
        assert not hands.store.exists()

    def test_the_newest_commit_of_the_attempt(self, hands: Hands, tmp_path: Path) -> None:
        repository = hands.repository()
        assert self.commits(hands) == inputs.CommitsRead(at=hands.clock.now(), attempt=1)
        for step in (1, 2):
            checkpoints.commit(repository, tmp_path / "train", step)
        checkpoints.commit(repository, tmp_path / "train", 9, attempt=2)
        newest = self.commits(hands).newest
        assert newest is not None
        assert repository.read_manifest(newest).step == 2


def test_every_effect_that_leaves_the_process_can_be_carried_out(hands: Hands) -> None:
    assert set(effects.CALLS) == set(hands.executor._how)


def test_what_is_not_on_record_is_a_bug_and_says_so(hands: Hands) -> None:
    with pytest.raises(LookupError, match="agent-zzzz-1"):
        hands(effects.Look(machine="agent-zzzz-1"))


def test_a_command_that_saves_is_only_a_command(hands: Hands) -> None:
    hands.bus.declare_agent(AGENT)
    assert hands(effects.SendCommand(agent=AGENT, attempt=1, id="c", body=SaveNow())) is None
