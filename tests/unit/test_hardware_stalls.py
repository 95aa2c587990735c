"""When a training counts as stalled, in the agent's core: silence is not death."""

from __future__ import annotations

import msgspec
import pytest

from runctl_agent.core import effects, inputs
from runctl_agent.core.decide import decide
from runctl_agent.core.model import Rules, State
from runctl_agent.core.phases import Phase
from runctl_agent.core.timers import due
from runctl_shared.messages import events
from runctl_shared.messages.base import Body

LIMIT, GRACE = 100.0, 20.0


class Agent:
    """A training that began at second 0 and made its first step at once."""

    def __init__(self, stall_after: float | None = None) -> None:
        rules = Rules(
            attempt=1, signal="SIGTERM", grace=GRACE, lease=1e6, kill_margin=3.0,
            stall_after=stall_after, stall_notice=LIMIT,
        )  # fmt: skip
        self.state = State(
            rules=rules,
            phase=Phase.TRAINING,
            permitted=True,
            lease_until=1e6,
            hard_end_at=1e6,
            started_at=0.0,
        )
        self.wanted: list[effects.Effect] = []
        self.printed_at: float | None = None
        self.cpu: float | None = 0.0
        self.gpu: float | None = None
        self.longest = 0.0

    def give(self, given: inputs.Input) -> None:
        decision = decide(self.state, given)
        self.state = decision.state
        self.wanted += decision.effects
        for effect in decision.effects:
            if isinstance(effect, effects.LookAround):
                self.give(
                    inputs.LookedAround(
                        at=given.at, moved_at=self.printed_at, longest_silence=self.longest,
                        cpu=self.cpu, gpu_percent=self.gpu,
                    )
                )  # fmt: skip

    def step(self, at: float, step: int) -> None:
        self.give(inputs.StepSeen(at=at, step=step))

    def until(self, end: float) -> None:
        """Every tick that the core asks for."""
        while (at := due(self.state)) is not None and at <= end:
            self.give(inputs.Tick(at=at))

    def told(self, kind: type[Body]) -> list[Body]:
        return [e.body for e in self.wanted if isinstance(e, effects.Report) and isinstance(e.body, kind)]

    @property
    def asked(self) -> bool:
        return any(isinstance(effect, effects.AskToSave) for effect in self.wanted)


def stepping(stall_after: float | None = None) -> Agent:
    agent = Agent(stall_after)
    agent.step(1.0, 1)
    agent.step(2.0, 2)
    return agent


def test_an_idle_silence_is_told_at_its_limit_and_nothing_is_done() -> None:
    """A stall that nobody hears of; a training ended that nobody asked to end."""
    agent = stepping()
    agent.until(101.9)
    assert agent.told(events.TrainingStalled) == []
    agent.until(10_000.0)
    (told,) = agent.told(events.TrainingStalled)
    assert isinstance(told, events.TrainingStalled)
    assert (told.seconds, told.last_step, told.cpu, told.ends) == (100.0, 2, 0.0, False)
    assert not agent.asked


def test_with_stall_after_it_is_asked_to_save_and_then_killed() -> None:
    """A stalled training that is paid for until the hard end, or killed without a chance to save."""
    agent = stepping(stall_after=LIMIT)
    agent.until(102.0)
    assert agent.asked
    assert agent.state.kill_at == 102.0 + GRACE
    agent.until(102.0 + GRACE)
    agent.give(inputs.TrainingExited(at=123.0, exit_code=None, signal="SIGKILL"))
    agent.give(inputs.Flushed(at=124.0))
    (end,) = agent.told(events.AttemptEnded)
    assert isinstance(end, events.AttemptEnded)
    assert (end.reason, end.last_step) == ("stalled", 2)


@pytest.mark.parametrize(("cpu", "gpu"), [(0.9, None), (0.0, 80.0), (None, None)])
def test_one_that_works_or_of_which_that_is_unknown_gets_three_times_as_long(
    cpu: float | None, gpu: float | None
) -> None:
    """A long validation or compilation that is ended because it prints nothing."""
    agent = stepping(stall_after=LIMIT)
    agent.cpu, agent.gpu = cpu, gpu
    agent.until(301.0)
    assert agent.told(events.TrainingStalled) == []
    agent.until(302.0)
    assert agent.asked


def test_before_its_first_sign_it_gets_three_times_as_long() -> None:
    """A training that is ended while it loads its data."""
    agent = Agent(stall_after=LIMIT)
    agent.until(299.0)
    assert not agent.asked
    agent.until(300.0)
    assert agent.asked


def test_a_silence_must_be_much_longer_than_those_before() -> None:
    """A training that validates for long every epoch, ended in its third one."""
    agent = stepping(stall_after=LIMIT)
    agent.step(92.0, 3)
    agent.until(92.0 + 269.0)
    assert not agent.asked
    agent.until(92.0 + 270.0)
    assert agent.asked


def test_output_is_a_sign_of_life_and_its_pace_is_not_mistaken_for_a_silence() -> None:
    """One that prints no steps is told to have stalled; or is looked at more and more seldom."""
    agent = stepping(stall_after=LIMIT)
    for second in range(10, 2000, 10):
        agent.printed_at, agent.longest = float(second), 10.0
        agent.until(float(second))
    assert agent.told(events.TrainingStalled) == []
    agent.until(1990.0 + LIMIT)
    assert agent.asked


def test_a_stall_that_ends_is_told_and_the_next_one_too() -> None:
    """The story says for ever that it has stalled."""
    agent = stepping()
    agent.until(200.0)
    agent.step(250.0, 3)
    assert agent.told(events.StallEnded) == [events.StallEnded(seconds=248.0)]
    agent.until(250.0 + 300.0)
    assert len(agent.told(events.TrainingStalled)) == 2
    agent.give(inputs.Moved(at=600.0))
    assert len(agent.told(events.StallEnded)) == 2


def test_a_restarted_agent_gives_it_its_time_again() -> None:
    """A training that is called stalled for the time in which nobody looked."""
    agent = stepping(stall_after=LIMIT)
    hello = events.Registered(protocol=1, version="1", capabilities=())
    agent.give(inputs.Booted(at=500.0, hello=hello, again=True, trainer="alive", pid=7))
    agent.until(599.0)
    assert not agent.asked
    agent.until(600.0)
    assert agent.asked


def test_an_answer_that_never_comes_is_asked_for_again() -> None:
    """One failed look at /proc, and no stall is ever noticed."""
    agent = stepping()
    state = agent.state
    for at in (102.0, 162.0):
        assert due(state) == at
        decision = decide(state, inputs.Tick(at=at))
        assert [type(e) for e in decision.effects] == [effects.LookAround]
        state = decision.state


def test_nothing_is_called_a_stall_while_the_attempt_is_ending_anyway() -> None:
    """A notice during a stall: the end has its reason already."""
    agent = stepping(stall_after=LIMIT)
    agent.give(
        inputs.NoticeSeen(at=50.0, id="n", kind="interruption", action="t", deadline=500.0, source="imds")
    )
    agent.until(400.0)
    assert agent.told(events.TrainingStalled) == []
    assert msgspec.structs.asdict(agent.state)["cause"] == "notice"


def test_a_save_on_request_is_no_sign_that_it_goes_on() -> None:
    """A hung training that still answers signals, kept alive for ever by whoever asks it to save."""
    agent = stepping(stall_after=LIMIT)
    for at, step in ((10.0, 2), (90.0, 2)):
        agent.give(
            inputs.Stored(
                at=at, manifest="m", step=step, epoch=None, size=1, files=1, format="npz",
                written_at=at, wall=1.0, upload_seconds=0.1,
            )
        )  # fmt: skip
    agent.until(101.0)
    assert not agent.asked
    agent.until(102.0)
    assert agent.asked
