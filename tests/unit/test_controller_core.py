"""The controller's core, one decision after the other: the main path, each way to end, and the guards."""

from __future__ import annotations

from typing import TypeVar

import pytest

from runctl_controller.core import effects, inputs
from runctl_controller.core.decide import Decision, decide
from runctl_controller.core.ledger import dollars
from runctl_controller.core.model import Attempt, Machine, Record, Run
from runctl_controller.core.tables import ATTEMPTS, RUNS, AttemptState, MachineState, RunState
from runctl_controller.core.turn import Turn
from runctl_controller.providers.port import EndCause, Offer, Sighting
from runctl_controller.providers.port import MachineState as Provided
from runctl_shared.errors import RefusedByGuard
from runctl_shared.messages import commands, events, requests
from runctl_shared.messages.base import Body
from runctl_shared.spec import RunSpec
from runctl_shared.states import IllegalTransition

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

    @property
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


def test_from_submission_to_success() -> None:
    c = Controller()
    assert c.last is not None
    (launch,) = wanted(c.last, effects.Launch)
    assert c.machine(1).state is MachineState.LAUNCHING
    assert (launch.machine, c.machine(1).order.tags["runctl:installation"]) == ("agent-test-1", "inst-1234")
    c.launched(1)
    assert c.state is RunState.PROVISIONING
    c.hear(1, REGISTERED)
    assert sent(c.hear(1, events.Staged())) == [commands.StartTraining]
    c.hear(1, STARTED)
    assert c.state is RunState.TRAINING
    c.hear(1, committed(10))
    last = c.hear(1, ended("succeeded", exit_code=0))
    assert (c.state, c.record.run.exit_code) == (RunState.SUCCEEDED, 0)
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
    state = c.state
    for body in (STARTED, committed(5), NOTICE, ended("succeeded"), events.Staged()):
        late = c.hear(1, body)
        assert [type(effect) for effect in late.effects] == [effects.Tell]
        assert late.answer == commands.AcknowledgeEvents(through=c.attempt(1).events_through)
    assert (c.state, c.attempt(1).reason) == (state, "lost")


def test_a_first_step_below_the_restored_one_is_told() -> None:
    c = Controller()
    c.train()
    told = wanted(c.hear(1, events.FirstStepSeen(step=1, restored_step=40, seconds=1.0)), effects.Tell)
    assert [tell.kind for tell in told] == ["not_resumed"]


# -- permission ----------------------------------------------------------------------------------


def test_a_notice_launches_the_successor_which_trains_only_after_the_end() -> None:
    c = Controller()
    c.train()
    assert [launch.machine for launch in wanted(c.hear(1, NOTICE), effects.Launch)] == ["agent-test-2"]
    assert sent(c.ready(2)) == []
    assert c.attempt(2).state is AttemptState.READY
    assert c.state is RunState.TRAINING
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
    assert (c.attempt(1).open, c.attempt(2).reason, c.state) == (True, "replaced", RunState.TRAINING)
    assert wanted(c.hear(1, NOTICE), effects.Launch)


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
    assert c.state is RunState.TRAINING
    c.hear(1, ended("succeeded"))
    assert c.state is RunState.SUCCEEDED


def test_a_lost_permission_is_given_again_with_the_lease() -> None:
    c = Controller()
    c.ready(1)
    assert sent(c.timer("lease:agent-test-1")) == [commands.RenewLease, commands.StartTraining]
    c.hear(1, STARTED)
    assert sent(c.timer("lease:agent-test-1")) == [commands.RenewLease]


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
    c.at += WORLD.lease + 2.0
    assert wanted(c.seen(1, Provided.RUNNING), effects.Terminate)
    assert c.attempt(1).open
    gone = c.seen(1, Provided.TERMINATED, cause=EndCause.ASKED, ended_at=c.at)
    assert wanted(gone, effects.ReadEnd)
    assert c.attempt(1).open
    c.give(inputs.EndRead(at=c.at, attempt=1))
    assert (c.attempt(1).reason, c.state) == ("lost", RunState.PROVISIONING)


def test_the_end_record_in_the_store_counts_when_the_agent_could_not_say_it() -> None:
    c = Controller()
    c.train()
    c.seen(1, Provided.TERMINATED, cause=EndCause.ITSELF, ended_at=c.at)
    failed = c.give(inputs.EndRead(at=c.at, attempt=1, error="no answer"))
    assert [timer.key for timer in wanted(failed, effects.SetTimer)] == ["end-record:1"]
    assert c.attempt(1).open
    c.give(inputs.EndRead(at=c.at, attempt=1, record=ended("succeeded")))
    assert c.state is RunState.SUCCEEDED


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


def test_absence_is_not_measured_across_a_jump_of_the_clock() -> None:
    c = Controller()
    c.launched(1)
    for _ in range(6):
        c.seen(1, Provided.ABSENT)
    c.at += 900.0
    c.give(inputs.Woke(at=c.at))
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
    assert c.state is RunState.RECOVERING
    assert [timer.key for timer in wanted(refused, effects.SetTimer)] == ["retry"]
    assert wanted(c.timer("retry"), effects.Launch)


def test_a_machine_that_comes_after_its_attempt_was_dropped_is_paid_for_and_ended() -> None:
    c = Controller()
    c.request(requests.StopRun(run="test"))
    assert (c.state, c.machine(1).state) == (RunState.PAUSED, MachineState.UNCONFIRMED)
    c.launched(1)
    c.seen(1, Provided.TERMINATED, ended_at=c.at + 20.0)
    assert dollars(c.record.intervals, c.at) == pytest.approx(20.0)


def test_a_machine_that_never_was_costs_nothing() -> None:
    c = Controller()
    c.request(requests.StopRun(run="test"))
    c.give(inputs.LaunchAnswered(at=c.at, machine=c.agent(1), error="no_capacity"))
    assert (c.machine(1).state, c.record.intervals) == (MachineState.TERMINATED, ())


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
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))


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
    assert c.state is RunState.CANCELLED


def test_cancel_before_the_training_needs_no_force() -> None:
    c = Controller()
    c.launched(1)
    assert wanted(c.request(requests.CancelRun(run="test")), effects.Terminate)
    assert c.state is RunState.CANCELLED


def test_stop_then_resume() -> None:
    c = Controller()
    c.train()
    assert sent(c.request(requests.StopRun(run="test"))) == [commands.StopTraining]
    assert c.state is RunState.TRAINING
    assert sent(c.timer("lease:agent-test-1")) == []
    with pytest.raises(RefusedByGuard, match="still ending"):
        c.request(requests.ResumeRun(run="test"))
    c.hear(1, ended("stopped"))
    assert c.state is RunState.PAUSED
    assert wanted(c.request(requests.ResumeRun(run="test")), effects.Launch)
    c.train(2)
    assert c.state is RunState.TRAINING


def test_a_stop_wins_over_whatever_the_attempt_ends_with_but_success() -> None:
    for reason, state in (("interrupted", RunState.PAUSED), ("succeeded", RunState.SUCCEEDED)):
        c = Controller()
        c.train()
        c.request(requests.StopRun(run="test"))
        c.hear(1, ended(reason))
        assert c.state is state


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
    assert (c.state, c.record.run.restarts) == (RunState.RECOVERING, 1)
    c.timer("retry")
    c.train(3)
    c.hear(3, ended("user_error", exit_code=1, detail="exit code 1"))
    assert (c.state, c.record.run.why, c.record.run.exit_code) == (RunState.FAILED, "exit code 1", 1)


def test_ends_without_progress_end_with_a_person() -> None:
    c = Controller()
    for attempt in (1, 2, 3):
        c.launched(attempt)
        c.seen(attempt, Provided.TERMINATED, cause=EndCause.BOOT_FAILED, ended_at=c.at)
        c.give(inputs.EndRead(at=c.at, attempt=attempt))
        c.timer("retry")
    assert c.state is RunState.STUCK
    assert "3 times in a row" in c.record.run.why


def test_a_time_limit_pauses_and_resuming_does_not_get_round_it() -> None:
    c = Controller(max_seconds=60.0)
    assert c.machine(1).order.hard_end == 60.0
    c.train()
    c.at += 60.0
    c.hear(1, ended("time_limit"))
    assert c.state is RunState.PAUSED
    c.request(requests.ResumeRun(run="test"))
    assert (c.state, len(c.record.attempts)) == (RunState.PAUSED, 1)


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
