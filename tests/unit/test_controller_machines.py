"""The controller's core on machines: silence and evidence, launches, and what they cost."""

from __future__ import annotations

from itertools import pairwise

import pytest

from runctl_controller.core import effects, inputs
from runctl_controller.core.ledger import dollars
from runctl_controller.core.tables import MachineState, RunState
from runctl_controller.providers.port import EndCause
from runctl_controller.providers.port import MachineState as Provided
from runctl_shared.messages import events, requests
from runctl_testing.sim.decisions import (
    REGISTERED,
    STARTED,
    WORLD,
    Controller,
    committed,
    ended,
    wanted,
)

# -- silence and evidence ------------------------------------------------------------------------


def test_silence_is_not_death() -> None:
    c = Controller()
    c.train()
    silent = c.give(inputs.WentSilent(at=c.at, agent=c.agent(1), heard_at=c.at - 40.0))
    assert wanted(silent, effects.Look)
    c.seen(1, Provided.RUNNING)
    assert c.attempt(1).open
    c.give(inputs.HeardAgain(at=c.at, agent=c.agent(1)))
    assert c.attempt(1).unheard_since is None


def test_a_machine_unheard_for_a_whole_lease_is_fenced_and_replaced_once_gone() -> None:
    c = Controller()
    c.train()
    c.give(inputs.WentSilent(at=c.at, agent=c.agent(1), heard_at=c.at))
    c.at += WORLD.lease - 1.0
    assert not wanted(c.seen(1, Provided.RUNNING), effects.Terminate)
    c.at += 3.0
    assert wanted(c.seen(1, Provided.RUNNING), effects.ReadCommits)
    assert wanted(c.give(inputs.CommitsRead(at=c.at, attempt=1)), effects.Terminate)
    assert c.attempt(1).open
    gone = c.seen(1, Provided.TERMINATED, cause=EndCause.ASKED, ended_at=c.at)
    assert wanted(gone, effects.ReadEnd)
    assert c.attempt(1).open
    c.give(inputs.EndRead(at=c.at, attempt=1))
    assert (c.attempt(1).reason, c.state()) == ("lost", RunState.PROVISIONING)


def test_a_machine_that_died_while_it_was_launched_is_not_waited_for() -> None:
    """A controller killed in the midst of a launch asks again, and gets to know the same machine: dead."""
    c = Controller()
    dead = c.sighting(1, Provided.TERMINATED, cause=EndCause.FAILED, launched_at=c.at, ended_at=c.at)
    answered = c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), sighting=dead))
    assert wanted(answered, effects.ReadEnd)
    c.give(inputs.EndRead(at=c.at, attempt=1))
    assert (c.attempt(1).reason, c.record.machines[0].state) == ("lost", MachineState.TERMINATED)
    assert c.attempt(2).open


def test_the_end_record_in_the_store_counts_when_the_agent_could_not_say_it() -> None:
    c = Controller()
    c.train()
    c.seen(1, Provided.TERMINATED, cause=EndCause.ITSELF, ended_at=c.at)
    failed = c.give(inputs.EndRead(at=c.at, attempt=1, error="no answer"))
    assert [timer.key for timer in wanted(failed, effects.SetTimer)] == ["end-record:1"]
    assert c.attempt(1).open
    c.give(inputs.EndRead(at=c.at, attempt=1, record=ended("succeeded")))
    assert c.state() is RunState.SUCCEEDED


def test_an_absent_machine_is_gone_only_after_long_and_many_looks() -> None:
    c = Controller()
    c.launched(1)
    for _ in range(7):
        c.seen(1, Provided.ABSENT)
        c.at += 15.0
    assert c.machine(1).state is MachineState.RUNNING
    c.at += 30.0
    c.seen(1, Provided.ABSENT)
    assert c.machine(1).state is MachineState.TERMINATED


@pytest.mark.parametrize("jump", [900.0, -900.0])
def test_absence_is_not_measured_across_a_jump_of_the_clock(jump: float) -> None:
    c = Controller()
    c.launched(1)
    for _ in range(6):
        c.seen(1, Provided.ABSENT)
    asked_at = c.at
    c.at += jump
    c.give(inputs.Woke(at=c.at))
    stale = c.sighting(1, Provided.ABSENT)
    c.give(inputs.Seen(at=asked_at, machine=c.agent(1), sighting=stale))
    c.seen(1, Provided.ABSENT)
    assert c.machine(1).state is MachineState.RUNNING


def test_asking_for_the_end_is_no_proof_of_it() -> None:
    c = Controller()
    c.train()
    c.hear(1, ended("succeeded"))
    c.give(inputs.TerminateAnswered(at=c.at, machine=c.agent(1)))
    assert c.machine(1).state is MachineState.UNCONFIRMED
    failed = c.give(inputs.TerminateAnswered(at=c.at, machine=c.agent(1), error="throttled"))
    assert [timer.key for timer in wanted(failed, effects.SetTimer)] == ["end:agent-test-1"]


# -- launches ------------------------------------------------------------------------------------


def test_a_lost_answer_is_asked_for_again_with_the_same_order() -> None:
    c = Controller()
    order = c.machine(1).order
    failed = c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), error="throttled"))
    assert [timer.key for timer in wanted(failed, effects.SetTimer)] == ["launch:agent-test-1"]
    assert wanted(c.timer("launch:agent-test-1"), effects.Launch)
    assert c.machine(1).order == order


def test_no_capacity_ends_the_attempt_and_waits() -> None:
    c = Controller()
    refused = c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), error="no_capacity"))
    assert c.state() is RunState.RECOVERING
    assert [timer.key for timer in wanted(refused, effects.SetTimer)] == ["retry"]
    assert wanted(c.timer("retry"), effects.Launch)


def test_a_machine_that_comes_after_its_attempt_was_dropped_is_paid_for_and_ended() -> None:
    c = Controller()
    c.request(requests.StopRun(run="test"))
    assert (c.state(), c.machine(1).state) == (RunState.PAUSED, MachineState.UNCONFIRMED)
    c.launched(1)
    c.seen(1, Provided.TERMINATED, ended_at=c.at + 20.0)
    assert dollars(c.record.intervals, c.at) == pytest.approx(20.0)


def test_a_machine_that_never_was_costs_nothing() -> None:
    c = Controller()
    c.request(requests.StopRun(run="test"))
    c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), error="no_capacity"))
    assert (c.machine(1).state, c.record.intervals) == (MachineState.TERMINATED, ())


def test_a_machine_that_was_launched_after_all_is_ended_and_paid_for() -> None:
    """A controller that was stopped in the midst of a launch goes on with it when its successor has given
    up."""
    c = Controller()
    c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), error="no_capacity"))
    assert wanted(c.hear(1, REGISTERED), effects.Terminate)
    assert c.machine(1).state is MachineState.UNCONFIRMED
    c.seen(1, Provided.RUNNING, launched_at=c.at)
    c.seen(1, Provided.TERMINATED, launched_at=c.at, ended_at=c.at + 20.0)
    assert c.machine(1).state is MachineState.TERMINATED
    assert dollars(c.record.intervals, c.at) == pytest.approx(20.0)
    assert not wanted(c.hear(1, REGISTERED), effects.Terminate)  # by now its end is more than an absence


# -- the ledger ----------------------------------------------------------------------------------


def test_the_ledger_covers_the_machine_exactly_as_the_provider_has_it() -> None:
    c = Controller()
    c.hear(1, REGISTERED)  # quicker than the provider's answer
    seen = c.sighting(1, Provided.RUNNING, launched_at=990.0)
    c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), sighting=seen))
    c.at += 10.0
    c.hear(1, events.Staged(), STARTED)
    c.at += 50.0
    c.hear(1, ended("succeeded"))
    c.at += 100.0
    c.seen(1, Provided.TERMINATED, ended_at=1055.0)
    spans = sorted((i.start, i.end) for i in c.record.intervals)
    assert spans[0][0] == 990.0
    assert spans[-1][1] == 1055.0
    assert all(before[1] == after[0] for before, after in pairwise(spans))


def test_a_clock_set_back_leaves_no_gap_in_the_ledger() -> None:
    c = Controller()
    c.launched(1)
    c.at -= 500.0
    c.hear(1, REGISTERED, events.Staged())
    assert [(i.use, i.start, i.end) for i in c.record.intervals] == [("staging", 1000.0, None)]


def test_training_that_an_interruption_undid_is_lost() -> None:
    c = Controller()
    c.train()
    c.at += 10.0
    c.hear(1, committed(10))
    c.at += 30.0
    c.hear(1, ended("lost"))
    uses = {i.use: (i.end or 0.0) - i.start for i in c.record.intervals if i.end is not None}
    assert (uses["training"], uses["lost"]) == (10.0, 30.0)


def test_a_machine_that_is_taken_before_its_agent_is_up_is_missed_soon() -> None:
    """An interruption during the boot that nobody notices until the whole boot limit is over."""
    c = Controller()
    looks, said, began = 0, c.launched(1), c.at
    while c.at < began + WORLD.boot_limit:
        (look,) = (t.at for t in wanted(said, effects.SetTimer) if t.key == "look:agent-test-1")
        assert look - c.at <= max(5.0, c.at - began)  # soon enough…
        c.at, looks = look, looks + 1
        assert wanted(c.timer("look:agent-test-1"), effects.Look)
        said = c.seen(1, Provided.RUNNING)
    assert looks < 15  # …and seldom enough
    gone = c.seen(1, Provided.TERMINATED, cause=EndCause.INTERRUPTED, ended_at=c.at)
    assert wanted(gone, effects.ReadEnd)
