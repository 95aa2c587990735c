"""The controller's core, one decision after the other: the main path, each way to end, and the guards."""

from __future__ import annotations

import msgspec
import pytest

from runctl_controller.core import effects, inputs
from runctl_controller.core.agents import MOST_AHEAD
from runctl_controller.core.decide import MOST_EVENTS
from runctl_controller.core.tables import ATTEMPTS, RUNS, AttemptState, MachineState, RunState
from runctl_controller.core.turn import Turn
from runctl_controller.providers.port import EndCause
from runctl_controller.providers.port import MachineState as Provided
from runctl_shared.errors import RefusedByGuard
from runctl_shared.messages import commands, events, requests
from runctl_shared.states import IllegalTransition
from runctl_testing.records import change_attempt
from runctl_testing.sim.decisions import (
    NOTICE,
    REGISTERED,
    STARTED,
    WORLD,
    Controller,
    committed,
    ended,
    sent,
    wanted,
)


def test_from_submission_to_success() -> None:
    c = Controller()
    assert c.last is not None
    (launch,) = wanted(c.last, effects.Launch)
    assert c.machine(1).state is MachineState.LAUNCHING
    assert (launch.machine, c.machine(1).order.tags["runctl:installation"]) == ("agent-test-1", "inst-1234")
    c.launched(1)
    assert c.state() is RunState.PROVISIONING
    c.hear(1, REGISTERED)
    assert sent(c.hear(1, events.Staged())) == [commands.StartTraining]
    c.hear(1, STARTED)
    assert c.state() is RunState.TRAINING
    c.hear(1, committed(10))
    last = c.hear(1, ended("succeeded", exit_code=0))
    assert (c.state(), c.record.run.exit_code) == (RunState.SUCCEEDED, 0)
    assert wanted(last, effects.Terminate)
    assert c.machine(1).state is MachineState.UNCONFIRMED
    c.seen(1, Provided.ENDING)
    assert c.machine(1).state is MachineState.UNCONFIRMED
    c.seen(1, Provided.TERMINATED, ended_at=c.at)
    assert c.machine(1).state is MachineState.TERMINATED
    assert not c.record.busy


def test_submitting_again_changes_nothing() -> None:
    c = Controller()
    again = c.request(requests.SubmitRun(spec=c.record.run.spec))
    assert (again.effects, len(c.record.attempts)) == ((), 1)


# -- events --------------------------------------------------------------------------------------


def test_an_event_that_came_before_is_only_acknowledged() -> None:
    c = Controller()
    c.train()
    before = c.record
    again = c.give(inputs.Heard(at=c.at, agent=c.agent(1), sequence=1, body=REGISTERED))
    assert again.answer == commands.AcknowledgeEvents(through=3)
    assert (again.effects, c.record) == ((), before)


def test_a_gap_is_asked_for_again_and_what_lies_beyond_waits() -> None:
    c = Controller()
    c.train()
    before = c.record
    beyond = c.give(inputs.Heard(at=c.at, agent=c.agent(1), sequence=5, body=ended("succeeded")))
    assert beyond.answer == commands.ResendEvents(after=3)
    assert c.record == before


def test_a_late_event_of_an_ended_attempt_is_told_and_moves_nothing() -> None:
    c = Controller()
    c.train()
    c.hear(1, ended("lost"))
    state = c.state()
    for body in (STARTED, committed(5), NOTICE, ended("succeeded"), events.Staged()):
        late = c.hear(1, body)
        assert [type(effect) for effect in late.effects] == [effects.Tell]
        assert late.answer == commands.AcknowledgeEvents(through=c.attempt(1).events_through)
    assert (c.state(), c.attempt(1).reason) == (state, "lost")


def test_a_first_step_below_the_restored_one_is_told() -> None:
    c = Controller()
    c.train()
    told = wanted(c.hear(1, events.FirstStepSeen(step=1, restored_step=40, seconds=1.0)), effects.Tell)
    assert [tell.kind for tell in told] == ["not_resumed"]


@pytest.mark.parametrize("kind", ["interruption", "rebalance", "maintenance"])
@pytest.mark.parametrize("withdraw", [False, True])
def test_a_drill_of_any_kind_is_told_and_passed_on(kind: events.NoticeKind, withdraw: bool) -> None:
    """A drill for a hint that takes the machine away."""
    c = Controller()
    request = requests.InterruptRun(run="test", notice=30.0, kind=kind, withdraw=withdraw)
    c.ready(1)
    with pytest.raises(RefusedByGuard):
        c.request(request)
    c.hear(1, STARTED)
    made = c.request(request)
    (drill,) = wanted(made, effects.Interrupt)
    assert (drill.machine, drill.kind, drill.withdraw) == ("agent-test-1", kind, withdraw)
    assert [tell.kind for tell in wanted(made, effects.Tell)] == ["drill"]
    assert c.state() is RunState.TRAINING


# -- permission ----------------------------------------------------------------------------------


def test_a_notice_launches_the_successor_which_trains_only_after_the_end() -> None:
    c = Controller()
    c.train()
    assert [launch.machine for launch in wanted(c.hear(1, NOTICE), effects.Launch)] == ["agent-test-2"]
    assert sent(c.ready(2)) == []
    assert c.attempt(2).state is AttemptState.READY
    assert c.state() is RunState.TRAINING
    end = c.hear(1, ended("interrupted"))
    assert commands.StartTraining in sent(end)
    assert c.attempt(2).permitted
    # The provider takes the machine itself: that may cost nothing.
    assert not wanted(end, effects.Terminate)
    c.at += 1000.0
    assert wanted(c.timer("overdue:agent-test-1"), effects.Terminate)


def test_a_withdrawn_notice_drops_the_successor_and_a_new_one_brings_another() -> None:
    c = Controller()
    c.train()
    c.hear(1, NOTICE)
    c.ready(2)
    c.hear(1, events.NoticeWithdrawn(notice="n1"))
    assert (c.attempt(1).open, c.attempt(2).reason, c.state()) == (True, "replaced", RunState.TRAINING)
    assert wanted(c.hear(1, NOTICE), effects.Launch)


def test_what_its_provider_says_after_the_attempts_end_still_ends_its_machine() -> None:
    """A machine that nobody takes any more is left running, or one that is gone is counted for long after."""
    for word in (events.NoticeWithdrawn(notice="n1"), msgspec.structs.replace(NOTICE, deadline=5.0)):
        c = Controller()
        c.train()
        c.hear(1, NOTICE, ended("interrupted"))
        said = c.hear(1, word)
        ends = bool(wanted(said, effects.Terminate))
        looks = [t.at - c.at for t in wanted(said, effects.SetTimer) if t.key == "look:agent-test-1"]
        assert ends is isinstance(word, events.NoticeWithdrawn)
        assert all(seconds < 30.0 for seconds in looks)
        assert looks
        assert c.attempt(1).reason == "interrupted"
        assert wanted(c.hear(1, word), effects.Terminate) == []  # heard again


def test_an_agent_that_invents_notices_rents_no_machine_after_machine() -> None:
    """An invented notice launches a replacement, its withdrawal drops it: money, as fast as events come."""
    c = Controller()
    c.train()
    launched = 0
    for _ in range(20):
        launched += len(wanted(c.hear(1, NOTICE), effects.Launch))
        c.hear(1, events.NoticeWithdrawn(notice="n1"))
    assert launched == MOST_AHEAD
    # When it ends, a successor is launched all the same.
    assert wanted(c.hear(1, ended("interrupted")), effects.Launch)


@pytest.mark.parametrize("reason", ["succeeded", "user_error", "out_of_memory"])
def test_nothing_is_said_of_a_training_that_was_never_permitted(reason: events.EndReason) -> None:
    """A run that counts as done, or a restart that is used up, though nothing was ever trained."""
    c = Controller(max_restarts=1)
    c.launched(1)
    c.hear(1, REGISTERED, ended(reason))
    assert (c.attempt(1).reason, c.record.run.restarts) == ("agent_failed", 0)
    assert c.state() in (RunState.RECOVERING, RunState.PROVISIONING)
    standing_by = Controller(max_restarts=1)
    standing_by.train()
    standing_by.hear(1, NOTICE)
    standing_by.ready(2)
    standing_by.hear(2, ended(reason))
    assert standing_by.attempt(2).reason == "agent_failed"
    assert (standing_by.state(), standing_by.attempt(1).open) == (RunState.TRAINING, True)


def test_events_beyond_all_measure_are_acknowledged_and_not_told() -> None:
    """A story that fills the disk: every event of an agent is told in it."""
    c = Controller()
    c.train()
    c.record = change_attempt(c.record, 1, events_through=MOST_EVENTS)
    body = events.CheckpointFailed(root="r", reason="x" * 2000)
    more = c.give(inputs.Heard(at=c.at, agent=c.agent(1), sequence=MOST_EVENTS + 1, body=body))
    assert more.answer == commands.AcknowledgeEvents(through=MOST_EVENTS + 1)
    assert more.effects == ()
    c.give(inputs.Heard(at=c.at, agent=c.agent(1), sequence=MOST_EVENTS + 2, body=ended("lost")))
    assert c.attempt(1).reason == "lost"


def test_a_withdrawn_rebalance_does_not_call_off_an_interruption() -> None:
    c = Controller()
    c.train()
    c.hear(1, NOTICE, events.NoticeWithdrawn(notice="another"))
    assert c.attempt(2).open
    assert c.attempt(1).deadline_at is not None


@pytest.mark.parametrize("reason", ["time_limit", "refused", "boot_failed", "store_failed", "no_capacity"])
def test_what_becomes_of_a_successor_does_not_end_the_run_while_the_first_trains(reason: str) -> None:
    c = Controller()
    c.train()
    c.hear(1, NOTICE)
    c.ready(2)
    c.hear(2, ended(reason))
    assert c.state() is RunState.TRAINING
    c.hear(1, ended("succeeded"))
    assert c.state() is RunState.SUCCEEDED


def test_a_lost_permission_is_given_again_with_the_lease() -> None:
    c = Controller()
    c.ready(1)
    assert sent(c.timer("lease:agent-test-1")) == [commands.RenewLease, commands.StartTraining]
    c.hear(1, STARTED)
    assert sent(c.timer("lease:agent-test-1")) == [commands.RenewLease]


# -- people --------------------------------------------------------------------------------------


def test_cancel_needs_force_where_training_goes_on_or_may_go_on() -> None:
    c = Controller()
    c.train()
    with pytest.raises(RefusedByGuard, match="is training"):
        c.request(requests.CancelRun(run="test"))
    c.give(inputs.WentSilent(at=c.at, agent=c.agent(1), heard_at=c.at - 40.0))
    with pytest.raises(RefusedByGuard, match="may be training"):
        c.request(requests.CancelRun(run="test"))
    forced = c.request(requests.CancelRun(run="test", force=True))
    (command,) = wanted(forced, effects.SendCommand)
    assert command.body == commands.StopTraining(save=False, grace=0.0)
    c.hear(1, ended("stopped"))
    assert c.state() is RunState.CANCELLED


def test_cancel_before_the_training_needs_no_force() -> None:
    c = Controller()
    c.launched(1)
    assert wanted(c.request(requests.CancelRun(run="test")), effects.Terminate)
    assert c.state() is RunState.CANCELLED


def test_stop_then_resume() -> None:
    c = Controller()
    c.train()
    assert sent(c.request(requests.StopRun(run="test"))) == [commands.StopTraining]
    assert c.state() is RunState.TRAINING
    assert sent(c.timer("lease:agent-test-1")) == [
        commands.StopTraining
    ]  # said again: a broker may have lost the word
    with pytest.raises(RefusedByGuard, match="still ending"):
        c.request(requests.ResumeRun(run="test"))
    c.hear(1, ended("stopped"))
    assert c.state() is RunState.PAUSED
    assert wanted(c.request(requests.ResumeRun(run="test")), effects.Launch)
    c.train(2)
    assert c.state() is RunState.TRAINING


def test_a_stop_wins_over_whatever_the_attempt_ends_with_but_success() -> None:
    for reason, state in (("interrupted", RunState.PAUSED), ("succeeded", RunState.SUCCEEDED)):
        c = Controller()
        c.train()
        c.request(requests.StopRun(run="test"))
        c.hear(1, ended(reason))
        assert c.state() is state


def test_a_drill_needs_a_training() -> None:
    c = Controller()
    with pytest.raises(RefusedByGuard):
        c.request(requests.InterruptRun(run="test"))
    c.train()
    assert wanted(c.request(requests.InterruptRun(run="test", notice=30.0)), effects.Interrupt)


# -- reasons -------------------------------------------------------------------------------------


def test_errors_of_the_training_use_up_restarts_and_those_of_the_provider_do_not() -> None:
    c = Controller(max_restarts=1)
    c.train(1)
    c.hear(1, committed(5), ended("lost"))
    c.train(2)
    c.hear(2, ended("user_error", exit_code=1))
    assert (c.state(), c.record.run.restarts) == (RunState.RECOVERING, 1)
    c.timer("retry")
    c.train(3)
    c.hear(3, ended("user_error", exit_code=1, detail="exit code 1"))
    assert (c.state(), c.record.run.why, c.record.run.exit_code) == (RunState.FAILED, "exit code 1", 1)


def test_ends_without_progress_end_with_a_person() -> None:
    c = Controller()
    for attempt in (1, 2, 3):
        c.launched(attempt)
        c.seen(attempt, Provided.TERMINATED, cause=EndCause.BOOT_FAILED, ended_at=c.at)
        c.give(inputs.EndRead(at=c.at, attempt=attempt))
        c.timer("retry")
    assert c.state() is RunState.STUCK
    assert "3 times in a row" in c.record.run.why


def test_a_time_limit_pauses_and_resuming_does_not_get_round_it() -> None:
    c = Controller(max_seconds=60.0)
    assert c.machine(1).order.hard_end == 60.0
    c.train()
    c.at += 60.0
    c.hear(1, ended("time_limit"))
    assert c.state() is RunState.PAUSED
    with pytest.raises(RefusedByGuard, match="has used 1m 00s of its time limit of 1m 00s") as refused:
        c.request(requests.ResumeRun(run="test"))
    assert "--max-hours" in refused.value.mend
    assert (c.state(), len(c.record.attempts)) == (RunState.PAUSED, 1)


def test_a_rest_of_the_limit_that_is_only_enough_to_save_rents_nothing() -> None:
    """A machine for each `resume`, which ends within a second and for the same reason every time."""
    c = Controller(max_seconds=200.0)
    c.train()
    c.at += 110.0
    c.hear(1, ended("time_limit"))
    with pytest.raises(RefusedByGuard, match="no more than it needs to save"):
        c.request(requests.ResumeRun(run="test"))
    with pytest.raises(RefusedByGuard, match="time limit of 3m 21s"):
        c.request(requests.ResumeRun(run="test", max_seconds=201.0))
    assert len(c.record.attempts) == 1
    c.request(requests.ResumeRun(run="test", max_seconds=1110.0))
    assert (c.state(), c.record.run.spec.max_seconds) == (RunState.PROVISIONING, 1110.0)
    assert c.machine(2).order.hard_end == 1000.0
    with pytest.raises(RefusedByGuard, match="its time limit stays"):
        c.request(requests.ResumeRun(run="test", max_seconds=2000.0))


def test_after_a_wake_everything_is_looked_at_and_leases_are_renewed() -> None:
    c = Controller()
    c.train()
    woke = c.give(inputs.Woke(at=c.at))
    assert wanted(woke, effects.Look)
    assert sent(woke) == [commands.RenewLease]


def test_illegal_transitions_raise() -> None:
    c = Controller()
    turn = Turn(c.record, WORLD, c.at)
    with pytest.raises(IllegalTransition):
        turn.attempt(1, AttemptState.TRAINING)
    with pytest.raises(IllegalTransition):
        turn.run(RunState.TRAINING)
    assert all(ATTEMPTS.is_final(state) == (state is AttemptState.ENDED) for state in AttemptState)
    assert {state for state in RunState if RUNS.is_final(state)} == {RunState.SUCCEEDED, RunState.CANCELLED}
