"""The agent's core, one decision after the other: the main path, the ends, and what it must not do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runctl_agent.core import effects, inputs
from runctl_agent.core.decide import decide
from runctl_agent.core.model import Rules, State
from runctl_agent.core.phases import PHASES, Phase
from runctl_agent.core.timers import due
from runctl_shared.messages import commands, events
from runctl_shared.messages.base import Body
from runctl_shared.states import IllegalTransition

RULES = Rules(attempt=2, signal="SIGTERM", grace=20.0, lease=100.0, kill_margin=3.0)
HELLO = events.Registered(protocol=1, version="1", capabilities=())


class Agent:
    """A state, and what was wanted on the way to it."""

    def __init__(self, **changes: object) -> None:
        state = State(rules=RULES, lease_until=100.0, hard_end_at=1000.0)
        self.state = msgspec.structs.replace(state, **changes)
        self.wanted: list[effects.Effect] = []
        self._commands = 0

    def give(self, given: inputs.Input) -> list[effects.Effect]:
        decision = decide(self.state, given)
        self.state = decision.state
        self.wanted += decision.effects
        return list(decision.effects)

    def command(self, body: Body, at: float = 10.0, id: str = "", attempt: int = 2) -> list[effects.Effect]:
        self._commands += 1
        kind = type(body).__name__
        name = id or f"cmd-{self._commands}"
        return self.give(inputs.CommandArrived(at=at, id=name, attempt=attempt, kind=kind, body=body))

    @property
    def reports(self) -> list[Body]:
        return [effect.body for effect in self.wanted if isinstance(effect, effects.Report)]

    @property
    def end(self) -> events.AttemptEnded:
        (end,) = [body for body in self.reports if isinstance(body, events.AttemptEnded)]
        return end


def kinds(wanted: list[effects.Effect]) -> list[type]:
    return [type(effect) for effect in wanted if not isinstance(effect, effects.Report)]


def training(**changes: object) -> Agent:
    """An agent whose training has run since second 5, from step 40."""
    agent = Agent(
        phase=Phase.TRAINING,
        permitted=True,
        pid=7,
        started_at=5.0,
        saved_step=40,
        restored_step=40,
        last_step=44,
    )
    agent.state = msgspec.structs.replace(agent.state, **changes)
    return agent


def stored(at: float, written_at: float, step: int = 60) -> inputs.Stored:
    return inputs.Stored(
        at=at, manifest="manifests/m", step=step, epoch=None, size=1, files=1, format="npz",
        written_at=written_at, wall=1.0, upload_seconds=0.1,
    )  # fmt: skip


def exited(at: float, code: int | None = 0, signal: str | None = None) -> inputs.TrainingExited:
    return inputs.TrainingExited(at=at, exit_code=code, signal=signal)


def notice(
    at: float, deadline: float | None = 60.0, id: str = "n1", kind: str = "interruption"
) -> inputs.NoticeSeen:
    return msgspec.convert(
        {"at": at, "id": id, "kind": kind, "action": "terminate", "deadline": deadline, "source": "imds"},
        inputs.NoticeSeen,
    )


def test_from_boot_to_success() -> None:
    agent = Agent()
    assert kinds(agent.give(inputs.Booted(at=0.0, hello=HELLO))) == [effects.Stage]
    assert kinds(agent.give(inputs.Staged(at=1.0, seconds=1.0))) == []
    assert kinds(agent.command(commands.StartTraining())) == [effects.Claim]
    assert kinds(agent.give(inputs.Claimed(at=11.0, parent="manifests/p"))) == [effects.Restore]
    restored = inputs.Restored(at=12.0, manifest="manifests/p", path="/ck", step=40)
    assert agent.give(restored)[-1] == effects.Train(resume_path="/ck", restored="manifests/p")
    agent.give(inputs.TrainingUp(at=13.0, pid=7))
    agent.give(inputs.StepSeen(at=14.0, step=41))
    assert kinds(agent.give(exited(50.0))) == [effects.Flush]
    agent.give(stored(51.0, 49.0))
    assert kinds(agent.give(inputs.Flushed(at=52.0))) == [effects.WriteEnd, effects.Drain]
    assert agent.end.reason == "succeeded"
    agent.give(inputs.EndRecorded(at=53.0))
    assert kinds(agent.give(inputs.Drained(at=54.0))) == [effects.ShutDown]
    names = [type(body).__name__ for body in agent.reports]
    assert names == [
        "Registered", "Staged", "Claimed", "CheckpointRestored", "TrainingStarted", "FirstStepSeen",
        "CheckpointCommitted", "AttemptEnded",
    ]  # fmt: skip


def test_permission_may_come_before_staging_is_done() -> None:
    agent = Agent()
    assert kinds(agent.command(commands.StartTraining())) == []
    assert kinds(agent.give(inputs.Staged(at=11.0, seconds=1.0))) == [effects.Claim]


def test_a_command_of_another_attempt_or_done_before_does_nothing() -> None:
    agent = Agent(phase=Phase.READY)
    assert agent.command(commands.StartTraining(), attempt=1) == []
    agent.command(commands.StartTraining(), id="cmd-a")
    before = agent.state
    assert agent.command(commands.StartTraining(), id="cmd-a") == []
    assert agent.state is before


def test_an_unknown_command_is_answered() -> None:
    agent = Agent()
    agent.command(events.Staged(), id="cmd-x")
    assert agent.reports == [events.CommandNotSupported(command="cmd-x", kind="Staged")]


def test_who_is_superseded_never_trains() -> None:
    agent = Agent(phase=Phase.CLAIMING)
    agent.give(inputs.ClaimFailed(at=1.0, superseded=True, detail="attempt 3 holds it"))
    assert agent.end.reason == "replaced"
    assert agent.give(inputs.Claimed(at=2.0, parent=None)) == []


def test_a_notice_has_the_training_save_and_kills_it_in_time() -> None:
    agent = training()
    assert kinds(agent.give(notice(10.0, 60.0))) == [effects.AskToSave]
    assert due(agent.state) == 67.0
    assert kinds(agent.give(notice(11.0, 59.5))) == []
    assert kinds(agent.give(inputs.Tick(at=67.0))) == [effects.Kill]
    agent.give(exited(67.1, None, "SIGKILL"))
    agent.give(inputs.Flushed(at=68.0))
    assert (agent.end.reason, agent.end.lost_steps) == ("interrupted", 4)
    assert len([body for body in agent.reports if isinstance(body, events.NoticeReceived)]) == 1


def test_an_interrupted_machine_is_left_to_its_provider_within_reason() -> None:
    agent = training()
    agent.give(notice(10.0, 60.0))
    for given in (
        exited(20.0),
        inputs.Flushed(at=21.0),
        inputs.EndRecorded(at=22.0),
        inputs.Drained(at=23.0),
    ):
        assert effects.ShutDown not in kinds(agent.give(given))
    assert due(agent.state) == 70.0 + RULES.overdue
    assert kinds(agent.give(inputs.Tick(at=250.0))) == [effects.ShutDown]


def test_a_withdrawn_notice_lets_the_training_go_on_and_another_one_counts_again() -> None:
    agent = training()
    agent.give(notice(10.0, id="n1"))
    agent.give(inputs.NoticeGone(at=20.0, id="n1"))
    assert (agent.state.phase, agent.state.kill_at, agent.state.deadline_at) == (Phase.TRAINING, None, None)
    assert kinds(agent.give(notice(30.0, id="n2"))) == [effects.AskToSave]


def test_a_stop_that_was_given_during_a_notice_outlives_it() -> None:
    agent = training()
    agent.give(notice(10.0, 60.0))
    agent.command(commands.StopTraining(grace=80.0), at=20.0)
    assert agent.state.kill_at == 67.0
    assert kinds(agent.give(inputs.NoticeGone(at=30.0, id="n1"))) == []  # it was asked to save already
    assert (agent.state.cause, agent.state.kill_at, due(agent.state)) == ("stop", 100.0, 100.0)
    assert kinds(agent.give(inputs.Tick(at=100.0))) == [effects.Kill]
    agent.give(exited(100.1, None, "SIGKILL"))
    agent.give(inputs.Flushed(at=101.0))
    assert agent.end.reason == "stopped"


def test_a_stop_that_was_given_before_a_notice_gets_its_own_time_back() -> None:
    agent = training()
    agent.command(commands.StopTraining(grace=80.0), at=10.0)
    agent.give(notice(11.0, 20.0))
    assert agent.state.kill_at == 28.0
    agent.give(inputs.NoticeGone(at=12.0, id="n1"))
    assert (agent.state.cause, agent.state.kill_at) == ("stop", 90.0)


def test_a_stop_that_a_too_short_notice_left_no_time_to_save_asks_when_that_is_withdrawn() -> None:
    agent = training()
    agent.give(notice(10.0, 0.0))
    agent.command(commands.StopTraining(grace=80.0), at=10.0)
    assert effects.AskToSave not in kinds(agent.wanted)
    assert kinds(agent.give(inputs.NoticeGone(at=10.0, id="n1"))) == [effects.AskToSave]


def test_what_was_killed_on_request_was_stopped_also_when_a_notice_came_first() -> None:
    agent = training()
    agent.give(notice(10.0, 60.0))
    assert effects.Kill in kinds(agent.command(commands.StopTraining(save=False), at=11.0))
    agent.give(inputs.NoticeGone(at=12.0, id="n1"))
    agent.give(exited(12.1, None, "SIGKILL"))
    agent.give(inputs.Flushed(at=13.0))
    assert agent.end.reason == "stopped"


def test_a_notice_that_is_withdrawn_while_the_command_is_being_started_is_forgotten() -> None:
    agent = Agent(phase=Phase.STARTING)
    agent.give(notice(10.0, 60.0))
    agent.give(inputs.NoticeGone(at=11.0, id="n1"))
    assert kinds(agent.give(inputs.TrainingUp(at=12.0, pid=7))) == []
    assert (agent.state.phase, agent.state.cause) == (Phase.TRAINING, None)


def test_a_notice_while_storing_makes_it_end_in_time() -> None:
    agent = training()
    agent.give(exited(20.0))
    assert due(agent.state) == 20.0 + RULES.flush
    agent.give(notice(30.0, 60.0))
    assert due(agent.state) == 89.0
    agent.give(notice(31.0, None, id="r", kind="rebalance"))
    assert due(agent.state) == 89.0
    agent.give(inputs.Tick(at=89.0))
    assert agent.end.reason == "succeeded"


def test_of_a_short_notice_some_is_left_to_store_what_a_killed_training_left() -> None:
    """Would end the attempt in the moment of the kill: nothing that was saved would be stored, nor told."""
    agent = training()
    agent.give(notice(10.0, 4.0))
    assert effects.Kill in kinds(agent.give(inputs.Tick(at=13.2)))
    agent.give(exited(13.3, None, "SIGKILL"))
    assert 13.5 < (due(agent.state) or 0.0) < 14.0
    lost: dict[str, Any] = {"reason": "torn", "size": 9}
    agent.give(inputs.NeverComplete(at=13.4, root="big.pt", written_at=13.1, **lost))
    agent.give(inputs.NeverComplete(at=13.4, root="old.pt", written_at=9.0, **lost))
    agent.give(inputs.Flushed(at=13.5))
    assert agent.end.exit_seconds == pytest.approx(3.3)
    told = [body for body in agent.reports if isinstance(body, events.CheckpointIncomplete)]
    assert [(body.root, body.save_seconds) for body in told] == [
        ("big.pt", pytest.approx(3.1)),
        ("old.pt", None),
    ]
    agent.give(inputs.NeverComplete(at=13.6, root="late.pt", written_at=9.0, **lost))
    assert isinstance(agent.reports[-1], events.AttemptEnded)


def test_what_was_stored_last_is_on_record() -> None:
    agent = training()
    assert agent.state.saved_manifest is None
    agent.give(stored(12.0, 11.0))
    assert agent.state.saved_manifest == "manifests/m"


def test_the_end_of_a_rebalance_notice_does_not_call_off_an_interruption() -> None:
    agent = training()
    agent.give(notice(10.0, None, id="r", kind="rebalance"))
    agent.give(notice(11.0, 60.0, id="n"))
    agent.give(inputs.NoticeGone(at=12.0, id="r"))
    assert (agent.state.cause, agent.state.deadline_at) == ("notice", 71.0)


def test_a_rebalance_notice_asks_once_to_save_and_training_goes_on() -> None:
    agent = training()
    assert kinds(agent.give(notice(10.0, None, kind="rebalance"))) == [effects.AskToSave]
    agent.give(stored(12.0, 11.0))
    assert agent.state.phase is Phase.TRAINING
    assert kinds(agent.give(notice(13.0, None, kind="rebalance"))) == []


@pytest.mark.parametrize("withdrawn", [False, True])
@pytest.mark.parametrize(("code", "signal"), [(0, None), (143, None), (None, "SIGTERM")])
def test_an_exit_after_our_signal_is_no_success_and_no_error_of_the_training(
    code: int | None, signal: str | None, withdrawn: bool
) -> None:
    agent = training()
    if withdrawn:
        agent.give(notice(10.0))
        agent.give(inputs.NoticeGone(at=11.0, id="n1"))
    else:
        agent.command(commands.SaveNow())
        agent.give(stored(12.0, 11.0))
    agent.give(exited(13.0, code, signal))
    agent.give(inputs.Flushed(at=14.0))
    assert agent.end.reason == "interrupted"


def test_a_training_that_goes_on_after_saving_may_succeed_later() -> None:
    agent = training()
    agent.command(commands.SaveNow(), at=10.0)
    agent.give(stored(12.0, 11.0))
    agent.give(inputs.StepSeen(at=31.0, step=70))
    agent.give(exited(50.0))
    agent.give(inputs.Flushed(at=51.0))
    assert agent.end.reason == "succeeded"


@pytest.mark.parametrize(("code", "signal"), [(1, None), (None, "SIGSEGV")])
def test_an_error_of_the_training_is_reported_as_such(code: int | None, signal: str | None) -> None:
    agent = training()
    agent.give(exited(13.0, code, signal))
    agent.give(inputs.Flushed(at=14.0))
    assert (agent.end.reason, agent.end.exit_code, agent.end.signal) == ("user_error", code, signal)


def test_stop_saves_and_is_killed_after_its_grace() -> None:
    agent = training()
    assert kinds(agent.command(commands.StopTraining(grace=20.0))) == [effects.AskToSave]
    assert kinds(agent.give(inputs.Tick(at=29.0))) == []
    assert kinds(agent.give(inputs.Tick(at=30.0))) == [effects.Kill]


def test_stop_without_saving_kills_at_once() -> None:
    assert effects.Kill in kinds(training().command(commands.StopTraining(save=False)))


def test_stop_before_the_training_ends_the_attempt() -> None:
    agent = Agent(phase=Phase.RESTORING)
    agent.command(commands.StopTraining())
    assert agent.end.reason == "stopped"
    assert agent.give(inputs.Restored(at=12.0, manifest=None)) == []


def test_stop_while_the_command_is_being_started() -> None:
    agent = Agent(phase=Phase.STARTING)
    assert kinds(agent.command(commands.StopTraining(save=False))) == []
    assert kinds(agent.give(inputs.TrainingUp(at=11.0, pid=7))) == [effects.AskToSave]
    assert kinds(agent.give(inputs.Tick(at=11.0))) == [effects.Kill]


def test_the_lease_is_renewed_by_the_controller_and_by_a_commit_only() -> None:
    agent = training()
    agent.give(inputs.StepSeen(at=50.0, step=50))
    assert due(agent.state) == 100.0
    agent.command(commands.RenewLease(seconds=100.0), at=60.0)
    assert due(agent.state) == 160.0
    agent.give(stored(90.0, 89.0))
    assert due(agent.state) == 190.0
    assert kinds(agent.give(inputs.Tick(at=190.0))) == [effects.AskToSave]
    assert (agent.state.cause, agent.state.kill_at) == ("lease", 210.0)


def test_the_hard_end_leaves_time_to_save_whatever_else_is_asked() -> None:
    agent = training(lease_until=5000.0)
    assert due(agent.state) == 1000.0 - 20.0 - 3.0
    agent.give(inputs.Tick(at=977.0))
    assert (agent.state.cause, agent.state.kill_at) == ("time_limit", 997.0)
    late = training(lease_until=5000.0)
    late.give(notice(950.0, 500.0))
    assert late.state.kill_at == 997.0


def test_storing_ends_in_time_for_the_last_word() -> None:
    agent = training()
    agent.give(notice(10.0, 60.0))
    agent.give(exited(20.0))
    assert due(agent.state) == 69.0
    agent.give(inputs.Tick(at=69.0))
    assert agent.end.reason == "interrupted"


def test_late_inputs_change_nothing_after_the_end_but_a_commit_is_still_told() -> None:
    agent = training()
    agent.give(exited(20.0))
    agent.give(inputs.Flushed(at=21.0))
    for given in (exited(22.0), inputs.Flushed(at=22.0), inputs.TrainingUp(at=22.0, pid=1)):
        assert agent.give(given) == []
    agent.give(stored(23.0, 19.0))
    assert isinstance(agent.reports[-1], events.CheckpointCommitted)


# -- the agent was restarted ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.STAGING, [effects.Stage]),
        (Phase.READY, []),
        (Phase.CLAIMING, [effects.Claim]),
        (Phase.RESTORING, [effects.Restore]),
        (Phase.STARTING, [effects.Train]),
        (Phase.FLUSHING, [effects.Flush]),
    ],
)
def test_a_restarted_agent_enters_its_phase_again(phase: Phase, expected: list[type]) -> None:
    agent = Agent(phase=phase)
    assert kinds(agent.give(inputs.Booted(at=1.0, hello=HELLO, again=True))) == expected
    assert (agent.state.phase, agent.reports) == (phase, [])


def test_a_restarted_agent_says_its_last_word_again() -> None:
    agent = training()
    agent.give(exited(20.0))
    agent.give(inputs.Flushed(at=21.0))
    again = agent.give(inputs.Booted(at=30.0, hello=HELLO, again=True))
    assert again == [effects.WriteEnd(record=agent.end), effects.Drain()]


def test_a_restarted_agent_adopts_a_training_that_it_had_just_started() -> None:
    agent = Agent(phase=Phase.STARTING)
    agent.give(inputs.Booted(at=1.0, hello=HELLO, again=True, trainer="alive", pid=9))
    assert (agent.state.phase, agent.state.pid) == (Phase.TRAINING, 9)


def test_a_restarted_agent_learns_how_the_training_ended() -> None:
    agent = training()
    wanted = agent.give(inputs.Booted(at=9.0, hello=HELLO, again=True, trainer="exited", exit_code=3))
    assert kinds(wanted) == [effects.Flush]
    agent.give(inputs.Flushed(at=10.0))
    assert (agent.end.reason, agent.end.exit_code) == ("user_error", 3)


def test_a_restarted_agent_without_its_training_admits_that_nobody_knows() -> None:
    agent = training()
    agent.give(inputs.Booted(at=9.0, hello=HELLO, again=True))
    agent.give(inputs.Flushed(at=10.0))
    assert agent.end.reason == "agent_failed"


def test_a_restarted_agent_asks_again_and_gives_time_again() -> None:
    """The process may have died between storing that it asks, and asking."""
    agent = training()
    agent.command(commands.StopTraining(grace=20.0), at=10.0)
    wanted = agent.give(inputs.Booted(at=40.0, hello=HELLO, again=True, trainer="alive", pid=7))
    assert kinds(wanted) == [effects.AskToSave]
    assert agent.state.kill_at == 60.0


def test_a_restarted_agent_kills_again_what_it_was_to_kill() -> None:
    agent = training()
    agent.command(commands.StopTraining(save=False))
    wanted = agent.give(inputs.Booted(at=11.0, hello=HELLO, again=True, trainer="alive", pid=7))
    assert kinds(wanted) == [effects.Kill]


def test_an_illegal_transition_raises() -> None:
    with pytest.raises(IllegalTransition):
        PHASES.check(Phase.ENDED, Phase.TRAINING)
    for phase in Phase:
        for state in PHASES.after[phase]:
            PHASES.check(phase, state)


@pytest.mark.parametrize(
    ("printed", "saved", "killed", "reached", "lost"),
    [
        (64, 60, True, 64, 4),
        (50, 60, True, 60, None),  # it prints seldom, or no more: nobody knows what it did after the save
        (50, 60, False, 60, 0),  # it saved when it was asked to, and ended
        (None, 60, True, None, None),
    ],
)
def test_lost_steps_are_told_only_when_they_are_known(
    printed: int | None, saved: int, killed: bool, reached: int | None, lost: int | None
) -> None:
    """A training that prints no more is told to have lost nothing, and to have got less far than it saved."""
    agent = training(last_step=printed)
    agent.give(notice(10.0, 60.0))
    agent.give(stored(21.0, 20.0, saved))
    if killed:
        agent.give(inputs.Tick(at=67.0))
    agent.give(exited(67.1, None, "SIGKILL") if killed else exited(67.1, 143))
    agent.give(inputs.Flushed(at=68.0))
    assert (agent.end.last_step, agent.end.saved_step, agent.end.lost_steps) == (reached, saved, lost)


def test_a_deadline_that_comes_nearer_is_told_again_and_one_that_wanders_is_not() -> None:
    """A controller that waits for ten minutes for the end of a machine that is gone."""
    agent = training()
    for at, deadline in ((10.0, 600.0), (11.0, 599.5), (12.0, 640.0), (13.0, 20.0), (14.0, 19.0)):
        agent.give(notice(at, deadline))
    told = [body.deadline for body in agent.reports if isinstance(body, events.NoticeReceived)]
    assert told == [600.0, 20.0]
    assert agent.state.deadline_at == 33.0
    agent.give(notice(15.0, None, "n2", "rebalance"))
    agent.give(notice(16.0, None, "n2", "rebalance"))
    assert len([body for body in agent.reports if isinstance(body, events.NoticeReceived)]) == 3
