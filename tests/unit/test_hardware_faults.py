"""What an error of a GPU means for the attempt, in the agent's core."""

from __future__ import annotations

import pytest
from msgspec import structs

from runctl_agent.core import effects, inputs
from runctl_agent.core.decide import decide
from runctl_agent.core.faults import GIVE_UP, MOST
from runctl_agent.core.model import Rules, State
from runctl_agent.core.phases import Phase
from runctl_agent.core.timers import due
from runctl_agent.core.xid import XIDS, explain
from runctl_agent.hardware.gpus import xid_fault
from runctl_shared.messages import events
from runctl_shared.messages.base import Body

RULES = Rules(attempt=1, signal="SIGTERM", grace=20.0, lease=1e6, kill_margin=3.0)


class Agent:
    def __init__(self) -> None:
        self.state = State(
            rules=RULES, phase=Phase.TRAINING, permitted=True, lease_until=1e6, hard_end_at=1e6,
            started_at=0.0, last_step=5, stepped_at=990.0, moved_at=990.0,
        )  # fmt: skip
        self.told: list[Body] = []
        self._asked = False

    def give(self, *given: inputs.Input) -> None:
        for each in given:
            decision = decide(self.state, each)
            self.state = decision.state
            self.told += [effect.body for effect in decision.effects if isinstance(effect, effects.Report)]
            self._asked |= any(isinstance(effect, effects.AskToSave) for effect in decision.effects)

    def asked(self) -> bool:
        """Whether the training was asked to save."""
        return self._asked

    def until(self, end: float, printed_at: float | None = None) -> None:
        while (at := due(self.state)) is not None and at <= end:
            self.give(inputs.Tick(at=at))
            if self.state.looked_at == at:
                self.give(inputs.LookedAround(at=at, moved_at=printed_at, cpu=1.0))

    def ends(self, at: float, code: int | None = 1, signal: str | None = None) -> events.AttemptEnded:
        self.give(
            inputs.TrainingExited(at=at, exit_code=code, signal=signal, detail="how it ended"),
            inputs.Flushed(at=at + 1),
        )
        end = self.told[-1]
        assert isinstance(end, events.AttemptEnded)
        return end


def test_a_training_that_dies_of_the_hardware_is_not_the_users_error() -> None:
    """A broken GPU that uses up the restarts of the user, on the same machine."""
    agent = Agent()
    agent.give(xid_fault("0000:3b:00", 48, 1000.0))
    assert agent.told == [
        events.GpuFaultSeen(
            device="0000:3b:00", code=48, blame="hardware", meaning="a double-bit memory error (ECC)"
        )
    ]
    end = agent.ends(1005.0)
    assert end.reason == "hardware_fault"
    assert end.detail == "GPU 0000:3b:00: Xid 48, a double-bit memory error (ECC) (how it ended)"


@pytest.mark.parametrize("code", [13, 31, 43, 45, 68, 137, 9999])
def test_an_error_of_the_program_is_the_users(code: int) -> None:
    """A bug in a kernel that is retried elsewhere for ever, at the user's expense."""
    agent = Agent()
    agent.give(xid_fault("0", code, 1000.0))
    assert agent.ends(1001.0).reason == "user_error"


def test_an_error_that_the_training_survived_explains_nothing() -> None:
    """A row of memory is remapped; hours later there is a bug in the training."""
    agent = Agent()
    agent.give(xid_fault("0", 63, 1000.0), inputs.StepSeen(at=2000.0, step=6))
    assert agent.ends(3000.0).reason == "user_error"


def test_an_error_after_which_it_hung_explains_a_late_end() -> None:
    """NCCL gives up after ten minutes; that is long after the error, but no step came since."""
    agent = Agent()
    agent.give(xid_fault("0", 74, 1000.0))
    assert agent.ends(1700.0).reason == "hardware_fault"


def test_success_is_success() -> None:
    """A finished training that is done again because of an error in its last second."""
    agent = Agent()
    agent.give(xid_fault("0", 48, 1000.0))
    assert agent.ends(1001.0, code=0).reason == "succeeded"


def test_the_first_fault_is_named() -> None:
    """The consequence is told as the cause: after a lost GPU, its neighbours report broken links."""
    agent = Agent()
    agent.give(xid_fault("a", 79, 1000.0), xid_fault("b", 74, 1000.1))
    assert "GPU a: Xid 79" in agent.ends(1002.0).detail


def test_a_training_that_hangs_on_a_lost_gpu_is_ended() -> None:
    """A machine without a GPU that is paid for until the hard end."""
    agent = Agent()
    agent.give(xid_fault("0", 79, 1000.0))
    agent.until(1000.0 + GIVE_UP - 1)
    assert not agent.asked()
    agent.until(1000.0 + GIVE_UP)
    assert agent.asked()
    end = agent.ends(1190.0, code=None, signal="SIGKILL")
    assert end.reason == "hardware_fault"
    assert "Xid 79" in end.detail


def test_a_training_that_goes_on_without_the_lost_gpu_is_left_alone() -> None:
    """On a machine with eight GPUs another one is lost than the training's."""
    agent = Agent()
    agent.give(xid_fault("7", 79, 1000.0), inputs.StepSeen(at=1070.0, step=6))
    agent.until(1000.0 + 2 * GIVE_UP)
    assert not agent.asked()


def test_a_lost_gpu_does_not_hurry_a_training_that_is_slow_by_nature() -> None:
    """Steps of ten minutes on another GPU than the lost one: ended for being what it always was."""
    agent = Agent()
    agent.give(inputs.StepSeen(at=1590.0, step=6), xid_fault("7", 79, 1600.0))
    agent.until(2190.0)
    agent.give(inputs.StepSeen(at=2190.0, step=7))
    agent.until(1e5)
    assert not agent.asked()


def test_a_training_that_names_no_steps_survived_what_it_saved_after() -> None:
    """A bug in the training, blamed on an error of hours before and retried elsewhere at no charge."""
    agent = Agent()
    agent.state = structs.replace(agent.state, stepped_at=None, last_step=None, saved_at=5000.0)
    agent.give(xid_fault("0", 63, 1000.0))
    assert agent.ends(6000.0).reason == "user_error"


def test_the_same_error_from_two_sources_is_told_once_and_a_flood_is_cut_off() -> None:
    """NVML and the kernel's log both tell of it; a broken GPU tells of it thousands of times."""
    agent = Agent()
    agent.give(xid_fault("0", 48, 1000.0), xid_fault("0", 48, 1001.0))
    assert len(agent.told) == 1
    for second in range(100):
        agent.give(xid_fault(str(second), 63, 1100.0 + second))
    assert len(agent.told) == MOST


def test_the_table_is_sound() -> None:
    """A number that ends trainings though it is the application's."""
    assert all(known.blame == "hardware" for known in XIDS.values() if known.gone)
    assert {code for code, known in XIDS.items() if known.blame == "application"} >= {13, 31, 43, 68}
    assert {code for code, known in XIDS.items() if known.blame == "hardware"} >= {
        48, 62, 63, 64, 74, 79, 92, 94, 95, 119, 120, 140,
    }  # fmt: skip
    assert explain(9999).blame == "unknown"


def test_an_error_that_is_read_only_after_the_end_still_counts() -> None:
    """The training dies at once, and the kernel's log is read a moment later: the user is blamed."""
    agent = Agent()
    agent.give(
        inputs.TrainingExited(at=1000.0, exit_code=1, signal=None, detail="how"),
        xid_fault("0", 79, 999.9),
        inputs.Flushed(at=1001.0),
    )
    end = agent.told[-1]
    assert isinstance(end, events.AttemptEnded)
    assert end.reason == "hardware_fault"


def test_what_happened_while_no_agent_was_there_is_judged_by_what_was_known_before() -> None:
    """A restarted agent sees the last step late, and takes it for a sign that the training survived."""
    agent = Agent()
    hello = events.Registered(protocol=1, version="1", capabilities=())
    agent.give(
        inputs.Booted(at=2000.0, hello=hello, again=True, trainer="alive", pid=7),
        inputs.StepSeen(at=2000.1, step=9),
        xid_fault("0", 48, 1000.0),
    )
    assert agent.ends(2000.5).reason == "hardware_fault"
