"""What clients see of a run: from the record, and from the newest heartbeat where that knows better."""

from __future__ import annotations

from typing import Any

import pytest

from runctl_controller.core.effects import Tell
from runctl_controller.core.model import Record
from runctl_controller.core.tables import AttemptState, MachineState, RunState
from runctl_controller.service.views import run_detail, run_view
from runctl_controller.store.port import Beat
from runctl_shared.messages.codec import decode, encode
from runctl_shared.messages.events import Gpu, Heartbeat
from runctl_testing.records import change_attempt, change_machine, change_run, new_run, with_attempt

NOW = 10_000.0
RUN = "run-abcd1234"
AGENT = "agent-abcd1234-1"


def training(**fields: Any) -> Record:
    defaults: dict[str, Any] = {"state": AttemptState.TRAINING, "started_at": NOW - 600.0}
    record = with_attempt(new_run(RUN, 1.0), ("training", NOW - 3600.0, None), **(defaults | fields))
    return change_run(record, state=RunState.TRAINING)


def beat(at: float = NOW, agent: str = AGENT, **fields: Any) -> Beat:
    defaults: dict[str, Any] = {"phase": "training", "step": 70, "at_risk_seconds": 30.0}
    return Beat(agent=agent, at=at, body=Heartbeat(**(defaults | fields)))


def test_a_run_that_was_just_submitted() -> None:
    view = run_view(new_run(RUN, 5.0, name="digits"), None, NOW)
    assert (view.run, view.name, view.state, view.attempt, view.phase) == (RUN, "digits", "queued", 0, "")
    assert (view.step, view.at_risk_seconds, view.dollars, view.unheard) == (None, 0.0, 0.0, False)


def test_while_it_trains_the_heartbeat_knows_best() -> None:
    view = run_view(training(last_step=40, saved_step=40), beat(loss=0.5, epoch=2.5), NOW)
    assert (view.step, view.saved_step, view.loss, view.epoch, view.phase) == (70, 40, 0.5, 2.5, "training")
    assert view.dollars == pytest.approx(0.25)


def test_how_long_it_will_take() -> None:
    """An ETA of a training that has ended, or out of numbers that make none."""
    told: dict[str, Any] = {"step": 70, "total_steps": 100, "steps_per_second": 2.0}
    view = run_view(training(), beat(**told), NOW)
    assert (view.total_steps, view.steps_per_second, view.eta) == (100, 2.0, 15.0)
    for name, unknown in (("steps_per_second", 0.0), ("steps_per_second", 1e-300), ("total_steps", None)):
        assert run_view(training(), beat(**(told | {name: unknown})), NOW).eta is None
    assert run_view(training(), beat(**(told | {"total_steps": 60})), NOW).eta == 0.0
    ended = run_view(change_attempt(training(), 1, state=AttemptState.ENDED), beat(**told), NOW)
    assert (ended.steps_per_second, ended.eta) == (None, None)


def test_the_gpus_and_a_stall_are_those_of_the_newest_heartbeat_as_long_as_it_trains() -> None:
    """A run that has ended is shown with the GPUs of a machine that is gone, and still stalled."""
    live = beat(gpus=(Gpu(index=0, name="H100"),), stalled_seconds=7.0)
    view = run_view(training(), live, NOW)
    assert ([gpu.name for gpu in view.gpus], view.stalled_seconds) == (["H100"], 7.0)
    over = run_view(training(state=AttemptState.ENDED), live, NOW)
    assert (over.gpus, over.stalled_seconds) == ((), 0.0)


def test_the_step_never_goes_back_because_a_heartbeat_is_older_than_an_event() -> None:
    assert run_view(training(last_step=90), beat(step=70), NOW).step == 90


def test_what_is_safe_was_trained_even_if_it_was_never_printed() -> None:
    assert run_view(training(last_step=225, saved_step=238), None, NOW).step == 238


def test_the_heartbeat_of_another_attempt_says_nothing_about_this_one() -> None:
    view = run_view(training(last_step=40), beat(agent="agent-abcd1234-9", loss=0.1), NOW)
    assert (view.step, view.loss, view.phase) == (40, None, "training")


class TestAtRisk:
    def test_it_grows_while_the_agent_is_not_heard(self) -> None:
        view = run_view(training(unheard_since=NOW - 100.0), beat(at=NOW - 100.0), NOW)
        assert (view.at_risk_seconds, view.unheard) == (130.0, True)

    def test_it_does_not_grow_while_nothing_trains(self) -> None:
        assert run_view(training(), beat(at=NOW - 100.0, at_risk_seconds=0.0), NOW).at_risk_seconds == 0.0

    def test_a_commit_that_is_newer_than_the_heartbeat_counts(self) -> None:
        view = run_view(training(saved_at=NOW - 5.0), beat(at=NOW - 8.0, at_risk_seconds=300.0), NOW)
        assert view.at_risk_seconds == 5.0

    def test_without_any_heartbeat_the_last_commit_tells(self) -> None:
        assert run_view(training(saved_at=NOW - 50.0), None, NOW).at_risk_seconds == 50.0

    def test_of_an_attempt_that_ended_it_is_what_was_lost(self) -> None:
        record = change_attempt(training(), 1, state=AttemptState.ENDED, lost_seconds=12.0)
        assert run_view(record, beat(), NOW).at_risk_seconds == 12.0

    def test_a_clock_that_was_set_back_makes_nothing_negative(self) -> None:
        view = run_view(training(saved_at=NOW + 500.0), beat(at=NOW + 100.0), NOW)
        assert view.at_risk_seconds == 0.0
        decode(encode(view, id="x"))


def test_an_ended_run_is_not_unheard_and_shows_its_end() -> None:
    record = change_attempt(training(), 1, state=AttemptState.ENDED, unheard_since=None, last_step=99)
    record = change_run(record, state=RunState.SUCCEEDED, ended_at=NOW, exit_code=0)
    view = run_view(record, beat(phase="training", step=50), NOW)
    assert (view.state, view.phase, view.unheard, view.step) == ("succeeded", "ended", False, 99)
    assert (view.ended_at, view.exit_code) == (NOW, 0)


def test_the_oldest_open_attempt_is_the_one_that_is_shown() -> None:
    record = with_attempt(training(last_step=7), state=AttemptState.BOOTING)
    view = run_view(record, beat(), NOW)
    assert (view.attempt, view.step) == (1, 70)
    ended = change_attempt(record, 1, state=AttemptState.ENDED)
    assert (run_view(ended, None, NOW).attempt, run_view(ended, None, NOW).phase) == (2, "booting")


@pytest.mark.parametrize(
    ("first", "second", "saved"),
    [
        ({}, {}, None),
        ({"saved_step": 40}, {}, 40),
        ({"saved_step": 40}, {"restored_step": 40}, 40),
        ({"saved_step": 40}, {"restored_step": 30}, 30),  # the newest was damaged
        ({"saved_step": 40}, {"restored_step": 40, "saved_step": 55}, 55),
        ({"saved_step": 40}, {"saved_step": 5}, 5),  # it began anew
    ],
)
def test_the_step_that_is_safe(first: dict[str, Any], second: dict[str, Any], saved: int | None) -> None:
    record = with_attempt(with_attempt(new_run(RUN), state=AttemptState.ENDED, **first), **second)
    assert run_view(record, None, NOW).saved_step == saved


def test_the_detail_has_everything_and_fits_into_a_message() -> None:
    record = change_attempt(training(last_step=40), 1, reason="user_error", detail="x" * 5000, exit_code=3)
    record = change_machine(record, 1, state=MachineState.UNCONFIRMED, provider_id="pid-7", cause="asked")
    told = Tell(at=5.0, attempt=1, kind="drill", text="y" * 5000, actor="user:" + "z" * 300, data={"a": [1]})
    detail = run_detail(record, beat(), [told], NOW)
    got = decode(encode(detail, id="x")).body
    (attempt,), (machine,), (interval,), (story,) = got.attempts, got.machines, got.ledger, got.story
    assert (attempt.attempt, attempt.reason, attempt.exit_code) == (1, "user_error", 3)
    assert (machine.machine, machine.state, machine.provider_id) == (AGENT, "unconfirmed", "pid-7")
    assert (interval.use, interval.end, interval.price) == ("training", None, 0.25)
    assert (story.kind, story.data) == ("drill", {"a": [1]})
    assert [len(attempt.detail), len(story.text), len(story.actor)] == [2000, 2000, 200]
    assert got.spec == record.run.spec
    assert got.run == run_view(record, beat(), NOW)
