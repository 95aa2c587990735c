"""The outbox: in order within a lane, never held up by another lane, and nothing is done until it is done."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runctl_controller.core import effects, inputs
from runctl_controller.core.model import Record
from runctl_controller.service import outbox as module
from runctl_controller.service.executor import TryLater
from runctl_controller.service.later import Later
from runctl_controller.service.loop import _lane
from runctl_controller.service.outbox import Job, Outbox
from runctl_shared.clock import SystemClock
from runctl_shared.messages.commands import SaveNow
from runctl_testing.eventually import eventually
from runctl_testing.records import new_run

RECORD = new_run("run-abcd1234")
PATIENCE = 60.0


class World:
    """Carries out `Look(machine=NAME)` by recording NAME; does with it what the test has said."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.tried: list[str] = []
        self.done: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.gates: dict[str, threading.Event] = {}
        self.outbox = Outbox(self.carry_out, self.finished, SystemClock(), workers=2, pools=("agent:",))
        self._number = 0

    def carry_out(self, record: Record, effect: effects.Effect) -> inputs.Input | None:
        assert isinstance(effect, effects.Look)
        name = effect.machine
        with self.lock:
            self.tried.append(name)
            failure = self.failures.get(name, [])
            error = failure.pop(0) if failure else None
        if name in self.gates:
            assert self.gates[name].wait(PATIENCE)
        if error is not None:
            raise error
        return inputs.Seen(at=0.0, machine=name, sighting=None)

    def finished(self, job: Job, outcome: inputs.Input | None) -> None:
        assert isinstance(outcome, inputs.Seen)
        with self.lock:
            self.done.append(outcome.machine)

    def job(self, name: str, lane: str) -> Job:
        self._number += 1
        return Job(outgoing=self._number, lane=lane, record=RECORD, effect=effects.Look(machine=name))

    def add(self, lane: str, *names: str) -> None:
        for name in names:
            self.outbox.add(self.job(name, lane))

    def waits_for(self, *names: str) -> None:
        eventually(lambda: set(names) <= set(self.done), timeout=PATIENCE, what=f"{names} of {self.done}")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.02)
    world = World()
    yield world
    for gate in world.gates.values():
        gate.set()
    world.outbox.close()


def test_jobs_of_a_lane_are_done_in_order_each_once(world: World) -> None:
    names = [f"job-{number}" for number in range(50)]
    world.add("a", *names)
    world.waits_for(*names)
    assert world.done == names
    assert world.tried == names


def test_a_lane_can_be_used_again_when_it_was_empty(world: World) -> None:
    world.add("a", "1")
    world.waits_for("1")
    world.add("a", "2")
    world.waits_for("2")


@pytest.mark.parametrize("error", [TryLater("the broker is away"), ValueError("a bug")])
def test_what_fails_is_tried_until_it_is_done_and_what_comes_after_it_waits(
    world: World, error: Exception
) -> None:
    world.failures["1"] = [error] * 5
    world.add("a", "1", "2")
    world.waits_for("1", "2")
    assert world.tried == ["1"] * 6 + ["2"]
    assert world.done == ["1", "2"]


def test_lanes_that_wait_hold_up_no_worker(world: World) -> None:
    """Ten lanes fail on and on; there are two workers."""
    for number in range(10):
        world.failures[f"bad-{number}"] = [TryLater("not now")] * 10**6
        world.add(f"lane-{number}", f"bad-{number}")
    world.add("good", "good-1", "good-2")
    world.waits_for("good-1", "good-2")
    assert world.done == ["good-1", "good-2"]


def test_workers_that_wait_for_a_broker_do_not_keep_a_machine_from_being_ended(world: World) -> None:
    for number in range(4):
        world.gates[f"send-{number}"] = threading.Event()
        world.add(f"agent:{number}", f"send-{number}")
    eventually(lambda: len(world.tried) == 2)  # as many as there are workers: all are stuck
    world.add("machine:x", "terminate")
    world.waits_for("terminate")
    assert world.done == ["terminate"]


def test_a_job_whose_outcome_could_not_be_stored_is_done_again(world: World) -> None:
    world.outbox.again(world.job("1", "a"))
    world.waits_for("1")


def test_closing_ends_after_the_job_under_way_and_begins_no_other(world: World) -> None:
    world.gates["1"] = threading.Event()
    world.failures["later"] = [TryLater("not now")] * 10**6
    world.add("a", "1", "2")
    world.add("b", "later")
    eventually(lambda: {"1", "later"} <= set(world.tried))
    closer = threading.Thread(target=world.outbox.close)
    closer.start()
    world.gates["1"].set()
    closer.join(PATIENCE)
    assert not closer.is_alive()
    assert world.done == ["1"]
    world.add("a", "3")
    world.add("c", "4")
    world.outbox.close()
    assert "3" not in world.tried
    assert "4" not in world.tried


def test_commands_and_calls_about_the_same_machine_have_lanes_of_their_own() -> None:
    """Else a command that cannot be sent would keep its machine from being ended."""
    agent = "agent-abcd1234-1"
    send = effects.SendCommand(agent=agent, attempt=1, id="c", body=SaveNow())
    lanes = [
        _lane("run-1", effect)
        for effect in (
            send,
            effects.ForgetAgent(agent=agent),
            effects.Launch(machine=agent),
            effects.Terminate(machine=agent, actor="lifecycle"),
            effects.Look(machine=agent),
            effects.ReadEnd(attempt=1),
        )
    ]
    assert lanes[0] == lanes[1]
    assert lanes[2] == lanes[3] == lanes[4]
    assert len({lanes[0], lanes[2], lanes[5]}) == 3
    assert lanes[0].startswith("agent:")


class TestLater:
    def test_in_the_order_of_their_times(self) -> None:
        later, called = Later(SystemClock()), list[int]()
        for number in (3, 1, 2):
            later.call(number * 0.02, lambda n=number: called.append(n))  # type: ignore[misc]  # bound on purpose
        eventually(lambda: len(called) == 3)
        later.close()
        assert called == [1, 2, 3]

    def test_one_that_fails_does_not_end_the_others(self) -> None:
        later, called = Later(SystemClock()), threading.Event()
        later.call(0.0, lambda: 1 // 0)  # type: ignore[arg-type]  # it never returns
        later.call(0.01, called.set)
        assert called.wait(PATIENCE)
        later.close()

    def test_what_comes_later_does_not_delay_what_comes_sooner(self) -> None:
        later, called = Later(SystemClock()), threading.Event()
        later.call(1000.0, lambda: None)
        later.call(0.0, called.set)
        assert called.wait(PATIENCE)
        later.close()

    def test_closed_it_calls_nothing_more_and_returns_at_once(self) -> None:
        later, called = Later(SystemClock()), list[int]()
        later.call(1000.0, lambda: called.append(1))
        later.close()
        later.call(0.0, lambda: called.append(2))
        later.close()
        assert called == []
